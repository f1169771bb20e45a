"""Detects damaged checkpoints by the sha256 checksums of their files. Imports neither JAX nor Orbax.

The folder of a step holds `state/` and `about/` with Orbax's files, and `sha256.json` with the checksum of
each. The checksums are written before the folder is renamed to its step, which commits it. A committed folder
without checksums is therefore damaged.
"""

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path

from mmjax.errors import one_line

CHECKSUM_FILE = "sha256.json"
UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of folders of saves that are in progress or interrupted
ORBAX_FILES = ("_METADATA", "_sharding", "manifest.ocdbt", "metadata")  # at the top of an item
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
    file = folder / CHECKSUM_FILE
    if file.exists() and not file.is_file():
        return f"{CHECKSUM_FILE} is no regular file"
    try:
        expected = json.loads(file.read_text("utf-8"))
        if not isinstance(expected, dict) or not expected:
            return "its list of checksums is empty"
        found = compute_checksums(folder) if verify else dict.fromkeys(_list_files(folder))
    except FileNotFoundError as error:
        problem = "an empty folder" if not any(folder.iterdir()) else f"no {Path(error.filename).name}"
        return f"{problem}: it was never finished, or files were deleted"
    except (OSError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {one_line(str(error))}"
    missing = sorted(expected.keys() - found.keys())
    if missing:
        return f"missing: {_abbreviate(missing)}"
    if not verify:
        return None
    changed = sorted(name for name in expected if found[name] != expected[name])
    if changed:
        return f"changed: {_abbreviate(changed)}"
    unknown = sorted(name for name in found.keys() - expected.keys() if _is_read(name))
    return f"without a checksum: {_abbreviate(unknown)}" if unknown else None


def _is_read(name: str) -> bool:
    """Whether Orbax may read a file: not the files that a file manager or a user put beside Orbax's own."""
    _, *folders, file = name.split("/")
    return (bool(folders) or file in ORBAX_FILES) and not file.startswith(".")


def list_checkpoints(folder: Path, *, verify: bool) -> list[CheckpointInfo]:
    """The committed steps in a run's `checkpoints` folder, oldest first. A run may be training in it."""
    checkpoints = []
    for path in _step_folders(folder):
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
    return sorted(path.name for path in _subfolders(folder) if UNFINISHED in path.name)


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
    """The folders of committed steps, oldest first. Others, such as "007" and "4 copy", are not Orbax's."""
    folders = [path for path in _subfolders(folder) if re.fullmatch("0|[1-9][0-9]{0,17}", path.name)]
    return sorted(folders, key=lambda path: int(path.name))


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _abbreviate(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
