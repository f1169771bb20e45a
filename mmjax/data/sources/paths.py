"""File lookup by path, folder or glob."""

import glob
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mmjax.errors import InputError

FileStamp: TypeAlias = tuple[str, int, int]  # (path, size in bytes, modification time in ns)
_MAX_NAMES = 100  # files whose names an identity lists


def find_files(path: str | tuple[str, ...], suffix: str, hint: str = "") -> tuple[Path, ...]:
    """Returns the absolute paths of the files that `path` names; those of a folder or glob are sorted.

    Raises:
        InputError: a path has no file. The message ends with `hint`.
    """
    files: list[Path] = []
    for name in (path,) if isinstance(path, str) else path:
        target = Path(name).expanduser().absolute()
        if target.is_dir():
            matches = sorted(target.glob(f"*{suffix}"))
            expected = f"files *{suffix} in the folder {target}"
        elif glob.has_magic(str(target)) and not target.exists():
            matches = [Path(match) for match in sorted(glob.glob(str(target), recursive=True))]
            expected = f"files that match {target}"
        else:
            matches = [target] if target.is_file() else []
            expected = f"data at {target}"
        if not matches:
            parent = next((p for p in target.parents if p.exists()), target)
            partial = (
                "" if parent == target.parent or target.exists() else f": of this path, only {parent} exists"
            )
            raise InputError(
                f"expected {expected}, found none{partial}. {hint or 'Correct the path, or fetch the data.'}"
            )
        files += matches
    return tuple(files)


def fingerprint(files: Sequence[Path]) -> tuple[FileStamp, ...]:
    """(path, size in bytes, modification time in ns) of each file, which change when the file does."""
    return tuple((str(f), (s := f.stat()).st_size, s.st_mtime_ns) for f in files)


def identify(files: Sequence[FileStamp], num_records: int) -> dict[str, Any]:
    """The identity of the records of these files: names without folders, sizes, and the number of records.

    Many files are identified by their number, their bytes, and a digest of their names and sizes.
    """
    sizes: dict[str, int] = {}
    for path, size, _ in files:
        name, count = Path(path).name, 1
        while name in sizes:  # files of one name from several folders
            count += 1
            name = f"{Path(path).name} ({count})"
        sizes[name] = size
    if len(sizes) <= _MAX_NAMES:
        return {"files": sizes, "records": num_records}
    digest = hashlib.sha256(json.dumps(list(sizes.items())).encode()).hexdigest()[:16]
    summary = {"number": len(sizes), "bytes": sum(sizes.values()), "digest": digest}
    return {"files": summary, "records": num_records}
