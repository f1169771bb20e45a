"""WebDataset shards: plain tar files, read at random by offset."""

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
from mmjax.data.sources.paths import Reader, find_files, fingerprint, threadsafe_cache
from mmjax.errors import InputError

_Fields: TypeAlias = dict[str, tuple[int, int]]  # field -> (offset, size) in bytes
_BLOCK = 512  # bytes; a tar file is a sequence of blocks and ends with one of zeros


@dataclasses.dataclass(frozen=True)
class WebDataset:
    """Tar files in which the members of one sample share what precedes the first dot of their base name.

    ``a/7.noto.png`` is field ``noto.png`` of sample ``a/7``. Members are read if a transform asks for them.

    Args:
        path: a tar file, a folder of them, a glob, or a tuple of those.
        hint: how to get the data; the end of the message when nothing is there.
    """

    path: str | tuple[str, ...]
    hint: str = ""

    def open(self) -> Reader:
        """Index the shards, or read the index that an earlier run left.

        Raises:
            InputError: no file, no plain tar, truncated, or a member's name leaves the archive.
        """
        return _open(fingerprint(find_files(self.path, ".tar", self.hint)))


@threadsafe_cache
def _open(stamps: tuple[tuple[str, int, int], ...]) -> Reader:
    return _Shards(
        [(path, *sample) for path, size, mtime in stamps for sample in _index(Path(path), size, mtime)]
    )


class _Shards:
    def __init__(self, samples: list[tuple[str, str, _Fields]]):
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Record:
        return _Sample(*self._samples[index])


class _Sample(Mapping[str, Any]):
    """One sample; a member's bytes are read when its field is asked for."""

    def __init__(self, path: str, key: str, fields: _Fields):
        self._path, self._key, self._fields = path, key, fields

    def __getitem__(self, field: str) -> Any:
        if field == "__key__":
            return self._key
        offset, size = self._fields[field]
        # Opened anew each time (10 us): shards may outnumber the file descriptors that a process may hold.
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
    """The samples of one shard, from the cached index if it is of this very file."""
    stamped = {"version": 1, "size": size, "mtime_ns": mtime_ns}
    cache = _cache_file(path)
    if (saved := _load(cache)) and {name: saved.get(name) for name in stamped} == stamped:
        return [
            (key, {field: tuple(span) for field, span in fields.items()}) for key, fields in saved["samples"]
        ]
    samples = _scan(path, size)
    _save(cache, stamped | {"samples": samples})
    return samples


def _cache_file(path: Path) -> Path:
    """Beside the shard, or in the user's cache folder where that folder is not to be written to."""
    folder = path.parent
    # root passes os.access on a folder that its owner made read-only, hence the look at the mode bits.
    if folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) and os.access(folder, os.W_OK):
        return folder / f"{path.name}.index.json"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "mmjax" / f"{path.name}.{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.index.json"


def _load(cache: Path) -> dict[str, Any] | None:
    try:
        return json.loads(cache.read_bytes())
    except (OSError, ValueError):  # absent or damaged: it is only a cache, and the shard is scanned again
        return None


def _save(cache: Path, index: dict[str, Any]) -> None:
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # nowhere to cache: the next run scans again
    try:
        part.write_text(json.dumps(index))
        part.replace(cache)  # atomic: several processes may index the same shard at once
    except OSError:
        part.unlink(missing_ok=True)  # a full disk: leave no half of an index


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
    """tarfile stops without a word at a cut between members and at a damaged header: look at the end."""
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
        return  # folders, links, and files that belong to no sample (README, .DS_Store)
    if member.issparse():
        raise InputError(
            f"expected members stored whole, found the sparse {member.name!r} in {path}. Pack it anew."
        )
    fields = samples.setdefault(str(name.with_name(stem)), {})
    if field in fields:
        raise InputError(
            f"expected one {field!r} a sample, found {member.name!r} twice in {path}. Pack it again."
        )
    fields[field] = (member.offset_data, member.size)
