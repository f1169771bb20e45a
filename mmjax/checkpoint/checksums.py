"""Which checkpoints are whole: sha256 of their files, written when they are saved. Needs no JAX and no Orbax.

A step's folder holds ``state/`` and ``about/`` with Orbax's files, and ``sha256.json``, the seal: the digest
of each of them. It is written before the folder gets its name, so one without a seal was never committed.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

SEAL = "sha256.json"
ITEMS = ("state", "about")  # files beside them are Orbax's notes, completed later


@dataclasses.dataclass(frozen=True)
class Entry:
    """One checkpoint, as ``mmjax checkpoints`` lists it."""

    step: int
    num_bytes: int  # of all its files
    saved: float  # seconds since 1970
    fault: str | None  # why it cannot be trusted; None: nothing was found


def seal(folder: Path) -> None:
    """Writes the digests of a step whose files are complete."""
    with (folder / SEAL).open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(digests(folder), indent=1))
        stream.flush()
        os.fsync(stream.fileno())  # else a power cut leaves a checkpoint that nothing can vouch for


def fault(folder: Path, *, verify: bool = True) -> str | None:
    """Why a committed step cannot be trusted, or None. Without ``verify``, files are missed but not read."""
    try:
        expected = json.loads((folder / SEAL).read_text("utf-8"))
        if not isinstance(expected, dict) or not expected:
            return "its list of checksums is empty"
        found = digests(folder) if verify else dict.fromkeys(_files(folder))
    except FileNotFoundError as error:
        what = "an empty folder" if not any(folder.iterdir()) else f"no {Path(error.filename).name}"
        return f"{what}: it was never finished, or files were deleted"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    missing = sorted(expected.keys() - found.keys())
    if missing:
        return f"missing: {_some(missing)}"
    changed = sorted(name for name in found if verify and found[name] != expected.get(name))
    return f"changed: {_some(changed)}" if changed else None


def entries(folder: Path, *, verify: bool) -> list[Entry]:
    """Every committed step in a run's ``checkpoints`` folder, oldest first. It may be in use meanwhile."""
    found = []
    for path in sorted(_steps(folder), key=lambda path: int(path.name)):
        try:
            sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
            found.append(Entry(int(path.name), sum(sizes), path.stat().st_mtime, fault(path, verify=verify)))
        except FileNotFoundError:
            if path.exists():
                raise
            # The run that trains here has just deleted it to make room for a newer one.
    return found


def unfinished(folder: Path) -> list[str]:
    """Names of saves that are under way, or were cut short: the next start of training deletes those."""
    return sorted(path.name for path in _children(folder) if path.is_dir() and not path.name.isdecimal())


def digests(folder: Path) -> dict[str, str]:
    """{path within the step's folder: sha256} of every file of the step's items."""
    return {name: _sha256(folder / name) for name in _files(folder)}


def _files(folder: Path) -> list[str]:
    files = (file for item in ITEMS for file in (folder / item).rglob("*") if file.is_file())
    return sorted(str(file.relative_to(folder)) for file in files)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _steps(folder: Path) -> list[Path]:
    return [path for path in _children(folder) if path.is_dir() and path.name.isdecimal()]


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
