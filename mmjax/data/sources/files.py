"""Reading regular files: their identity, and their bytes as long as they stay the files that were opened."""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmjax.errors import InputError, one_line

_MAX_NAMES = 100  # files whose names an identity lists
_PACKED = {  # first bytes of a compressed file: (format, how to unpack it)
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"PK\x03\x04": ("zip", "unzip"),
}


class FileStamp(NamedTuple):
    """A file, and the properties that differ between two versions of it."""

    path: str
    size: int  # bytes
    mtime_ns: int  # of the last modification
    ctime_ns: int  # of the last change, also of its name or mode
    inode: int

    @property
    def shown(self) -> str:
        """The path for a message."""
        return one_line(self.path)


def fingerprint(files: Sequence[Path]) -> tuple[FileStamp, ...]:
    """The stamp of each file. Raises InputError unless all are regular files that can be read."""
    stamps = []
    for file in files:
        try:
            status = file.stat()
        except OSError as error:  # a link to nothing, or a folder that may not be read
            raise InputError(f"expected a file at {one_line(str(file))}, found: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):  # reading a FIFO or a device may never end
            raise InputError(
                f"expected a regular file at {one_line(str(file))}, found {_kind(status.st_mode)}"
            )
        if not os.access(file, os.R_OK):
            raise InputError(
                f"expected to read {one_line(str(file))}, found that it is not permitted. Change its mode."
            )
        stamps.append(_stamp(str(file), status))
    return tuple(stamps)


def identify(files: Sequence[FileStamp], num_records: int) -> dict[str, Any]:
    """The identity of the records of these files: names without folders, sizes, and the number of records.

    Many files are identified by their number, their bytes, and a digest of their names and sizes.
    """
    sizes: dict[str, int] = {}
    for file in files:
        name, count = Path(file.path).name, 1
        while name in sizes:  # files of one name from several folders
            count += 1
            name = f"{Path(file.path).name} ({count})"
        sizes[name] = file.size
    if len(sizes) <= _MAX_NAMES:
        return {"files": sizes, "records": num_records}
    digest = hashlib.sha256(json.dumps(list(sizes.items())).encode()).hexdigest()[:16]
    summary = {"number": len(sizes), "bytes": sum(sizes.values()), "digest": digest}
    return {"files": summary, "records": num_records}


@contextlib.contextmanager
def open_unchanged(stamp: FileStamp) -> Iterator[int]:
    """Opens the file for `read_at`. Raises InputError if it is no longer the one of the stamp.

    A file is opened for each read (10 us), since there may be more files than descriptors.
    """
    try:
        file = os.open(stamp.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"expected to read {stamp.shown}, found: {error.strerror}") from error
    try:
        now = _stamp(stamp.path, os.fstat(file))
        # A change of mode changes ctime alone, and some network file systems number inodes anew.
        replaced = now.inode != stamp.inode and now.ctime_ns != stamp.ctime_ns
        if replaced or (now.size, now.mtime_ns) != (stamp.size, stamp.mtime_ns):
            raise InputError(
                f"expected {stamp.shown} as it was when it was opened ({stamp.size} bytes), found that it "
                f"has changed ({now.size} bytes). Do not replace data of a run; start again."
            )
        yield file
    finally:
        os.close(file)


def read_at(file: int, size: int, offset: int) -> bytes:
    """The bytes at an offset of a file; fewer at its end."""
    parts = []
    while size > 0 and (part := os.pread(file, size, offset)):  # one call reads at most 2 GiB
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def refuse_compressed(path: str, start: bytes, expected: str) -> None:
    """Raises InputError if a file that starts with these bytes is compressed, and says how to unpack it."""
    for magic, (kind, command) in _PACKED.items():
        if start.startswith(magic):
            raise InputError(
                f"expected {expected}, found {one_line(path)} in {kind} format. Unpack it with `{command}`."
            )


def _stamp(path: str, status: os.stat_result) -> FileStamp:
    return FileStamp(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _kind(mode: int) -> str:
    kinds = {"a folder": stat.S_ISDIR, "a FIFO": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((name for name, is_kind in kinds.items() if is_kind(mode)), "a device")
