"""Detects damaged checkpoints by the sha256 checksums of their files. Imports neither JAX nor Orbax.

The folder of a step holds `state/` and `about/` with Orbax's files, and `sha256.json` with the checksum of
each. The checksums are written before the folder is renamed to its step, which commits it. A committed folder
without checksums is therefore damaged.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

CHECKSUM_FILE = "sha256.json"
ITEMS = ("state", "about")  # Orbax completes its own notes beside them later, so those have no checksums


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """One committed checkpoint, with the keys that `mmjax checkpoints --json` prints."""

    step: int
    num_bytes: int  # of all its files
    saved: float  # seconds since 1970
    fault: str | None  # how it is damaged; None: no damage found


def write_checksums(folder: Path) -> None:
    """Writes the checksums of a step whose files are complete."""
    with (folder / CHECKSUM_FILE).open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(compute_checksums(folder), indent=1))
        stream.flush()
        os.fsync(stream.fileno())  # otherwise a power cut could leave a checkpoint that cannot be verified


def find_fault(folder: Path, *, verify: bool = True) -> str | None:
    """How a committed step is damaged, or None. With `verify` off, only missing files are noticed."""
    try:
        expected = json.loads((folder / CHECKSUM_FILE).read_text("utf-8"))
        if not isinstance(expected, dict) or not expected:
            return "its list of checksums is empty"
        found = compute_checksums(folder) if verify else dict.fromkeys(_list_files(folder))
    except FileNotFoundError as error:
        problem = "an empty folder" if not any(folder.iterdir()) else f"no {Path(error.filename).name}"
        return f"{problem}: it was never finished, or files were deleted"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    missing = sorted(expected.keys() - found.keys())
    if missing:
        return f"missing: {_abbreviate(missing)}"
    changed = sorted(name for name in found if verify and found[name] != expected.get(name))
    return f"changed: {_abbreviate(changed)}" if changed else None


def list_checkpoints(folder: Path, *, verify: bool) -> list[CheckpointInfo]:
    """The committed steps in a run's `checkpoints` folder, oldest first. A run may be training in it."""
    checkpoints = []
    for path in sorted(_step_folders(folder), key=lambda path: int(path.name)):
        try:
            num_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            fault = find_fault(path, verify=verify)
            checkpoints.append(CheckpointInfo(int(path.name), num_bytes, path.stat().st_mtime, fault))
        except FileNotFoundError:
            if path.exists():
                raise
            # Training has just deleted this checkpoint, because its retention policy no longer keeps it.
    return checkpoints


def list_unfinished(folder: Path) -> list[str]:
    """Folder names of saves in progress or interrupted. The next start of training deletes the latter."""
    return sorted(path.name for path in _subfolders(folder) if not path.name.isdecimal())


def compute_checksums(folder: Path) -> dict[str, str]:
    """{path within the step's folder: sha256} of every file of the step's items."""
    return {name: _sha256(folder / name) for name in _list_files(folder)}


def _list_files(folder: Path) -> list[str]:
    files = (file for item in ITEMS for file in (folder / item).rglob("*") if file.is_file())
    return sorted(str(file.relative_to(folder)) for file in files)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _step_folders(folder: Path) -> list[Path]:
    return [path for path in _subfolders(folder) if path.name.isdecimal()]


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _abbreviate(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
