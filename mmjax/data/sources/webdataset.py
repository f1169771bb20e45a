"""WebDataset shards: uncompressed tar files with random access by offset."""

import dataclasses
import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from mmjax.data.records import Record
from mmjax.data.sources.base import FileSource, Reader, threadsafe_cache
from mmjax.data.sources.paths import FileStamp, identify
from mmjax.errors import InputError

_Fields: TypeAlias = dict[str, tuple[int, int]]  # field -> (offset, size) in bytes
_BLOCK = 512  # bytes; a tar file is a sequence of blocks that ends with a block of zeros


@dataclasses.dataclass(frozen=True)
class WebDataset(FileSource):
    """Tar files whose members are grouped into samples by their names up to the first dot.

    `a/7.noto.png` is the field `noto.png` of the sample `a/7`. A member is read when a transform accesses its
    field. Opening indexes the shards, or loads the index that an earlier run saved.

    path, hint: see `FileSource`; the suffix is `.tar`.
    """

    def open(self) -> Reader:
        return _open(self.find(".tar"))


@threadsafe_cache
def _open(files: tuple[FileStamp, ...]) -> Reader:
    return _Shards(
        files, [(path, *sample) for path, size, mtime in files for sample in _index(Path(path), size, mtime)]
    )


class _Shards:
    def __init__(self, stamps: tuple[FileStamp, ...], samples: list[tuple[str, str, _Fields]]):
        self._stamps, self._samples = stamps, samples

    def __len__(self) -> int:
        return len(self._samples)

    def identity(self) -> dict[str, Any]:
        return identify(self._stamps, len(self))

    def __getitem__(self, index: int) -> Record:
        return _Sample(*self._samples[index])


class _Sample(Mapping[str, Any]):
    """One sample, whose fields are read on access."""

    def __init__(self, path: str, key: str, fields: _Fields):
        self._path, self._key, self._fields = path, key, fields

    def __getitem__(self, field: str) -> Any:
        if field == "__key__":
            return self._key
        offset, size = self._fields[field]
        # Opened for each read (10 us), since there may be more shards than file descriptors.
        file = os.open(self._path, os.O_RDONLY)
        try:
            data = os.pread(file, size, offset)
        finally:
            os.close(file)
        if len(data) != size:
            raise InputError(
                f"expected {size} bytes at {offset} of {self._path}, found {len(data)}: the file has changed"
            )
        return data

    def __iter__(self) -> Iterator[str]:
        yield "__key__"
        yield from self._fields

    def __len__(self) -> int:
        return 1 + len(self._fields)


def _index(path: Path, size: int, mtime_ns: int) -> list[tuple[str, _Fields]]:
    """The samples of one shard, from the cached index if it belongs to this version of the file."""
    identity = {"version": 1, "size": size, "mtime_ns": mtime_ns}
    cache = _cache_file(path)
    if (saved := _load(cache)) and {name: saved.get(name) for name in identity} == identity:
        return [
            (key, {field: tuple(span) for field, span in fields.items()}) for key, fields in saved["samples"]
        ]
    samples = _scan(path, size)
    _save(cache, identity | {"samples": samples})
    return samples


def _cache_file(path: Path) -> Path:
    """Next to the shard, or in the user's cache folder if the shard's folder is read-only."""
    folder = path.parent
    # os.access is always true for root, so check the mode bits too.
    if folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) and os.access(folder, os.W_OK):
        return folder / f"{path.name}.index.json"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "mmjax" / f"{path.name}.{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.index.json"


def _load(cache: Path) -> dict[str, Any] | None:
    try:
        return json.loads(cache.read_bytes())
    except (OSError, ValueError):  # absent or damaged: the shard is scanned again
        return None


def _save(cache: Path, index: dict[str, Any]) -> None:
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # cannot cache: the next run scans again
    try:
        part.write_text(json.dumps(index))
        part.replace(cache)  # atomic: several processes may index the same shard at once
    except OSError:
        part.unlink(missing_ok=True)  # full disk: leave no partial index


def _scan(path: Path, size: int) -> list[tuple[str, _Fields]]:
    samples: dict[str, _Fields] = {}
    end = 0
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                end = member.offset_data
                _add(samples, member, path)
            end = tar.offset
    except tarfile.ReadError as error:
        if end == 0:
            raise InputError(f"expected a plain, uncompressed tar file, found {path}: {error}") from error
        raise _truncated(path, size, f"{error} after byte {end}") from error
    _check_end(path, size, end)
    return list(samples.items())


def _check_end(path: Path, size: int, end: int) -> None:
    """Checks the end-of-archive block: tarfile ignores truncation between members and damaged headers."""
    with path.open("rb") as file:
        file.seek(max(end - _BLOCK, 0))
        tail = file.read(2 * _BLOCK)
    if bytes(_BLOCK) not in (tail[:_BLOCK], tail[_BLOCK:]):
        raise _truncated(path, size, f"no end-of-archive block at byte {end}")


def _truncated(path: Path, size: int, found: str) -> InputError:
    return InputError(
        f"expected a whole tar file, found {path} truncated or damaged: {found} of {size}. Fetch it again."
    )


def _add(samples: dict[str, _Fields], member: tarfile.TarInfo, path: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise InputError(
            f"expected names inside the archive, found {member.name!r} in {path}. Do not trust this file."
        )
    stem, dot, field = name.name.partition(".")
    if not member.isfile() or not stem or not dot:
        return  # folders, links, and files outside any sample (README, .DS_Store)
    if member.issparse():
        raise InputError(
            f"expected no sparse members, found {member.name!r} in {path}. Pack it without --sparse."
        )
    fields = samples.setdefault(str(name.with_name(stem)), {})
    if field in fields:
        raise InputError(
            f"expected one {field!r} per sample, found {member.name!r} twice in {path}. Pack it again."
        )
    fields[field] = (member.offset_data, member.size)
