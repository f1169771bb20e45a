"""Arrays in memory or in one .npz file."""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.data.records import Record
from mmjax.data.sources.base import FileSource, Reader, Source, threadsafe_cache
from mmjax.data.sources.paths import FileStamp, identify
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(Source):
    """Arrays of equal length, e.g. {"image": uint8 "n height width"}; record i holds element i of each.

    Equal only to itself: arrays have no hash, and comparing them would be slow.
    """

    arrays: dict[str, Any]

    def open(self) -> Reader:
        return _open_arrays(self)


@dataclasses.dataclass(frozen=True)
class Npz(FileSource):
    """The arrays of one .npz file, loaded into memory. Pickled objects are refused.

    fields: the arrays to read; empty: all.
    path, hint: see `FileSource`; exactly one file.
    """

    path: str
    fields: tuple[str, ...] = ()

    def open(self) -> Reader:
        return _open_npz(self.find(".npz"), tuple(self.fields))


@threadsafe_cache
def _open_arrays(source: Arrays) -> Reader:
    return _Rows("arrays", source.arrays)


@threadsafe_cache
def _open_npz(files: tuple[FileStamp, ...], fields: tuple[str, ...]) -> Reader:
    if len(files) != 1:
        raise InputError(f"expected one .npz file, found {[path for path, _, _ in files]}. Name one of them.")
    path = files[0][0]
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if missing := [field for field in fields if field not in archive.files]:
                raise InputError(f"expected the arrays {missing} in {path}, found {sorted(archive.files)}")
            arrays = {name: archive[name] for name in fields or archive.files}
        return _Rows(path.rpartition("/")[2], arrays, files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"expected an .npz file of plain arrays, found {path}: {error}") from error


class _Rows:
    def __init__(self, name: str, arrays: Mapping[str, Sequence[Any]], stamps: tuple[FileStamp, ...] = ()):
        if not arrays:
            raise InputError(f"expected at least one array in {name}, found none")
        sizes = {field: len(values) for field, values in arrays.items()}
        if len(set(sizes.values())) != 1:
            raise InputError(f"expected arrays of one length in {name}, found the lengths {sizes}")
        self._stamps = stamps
        self._name, self._arrays, self._size = name, arrays, next(iter(sizes.values()))

    def __len__(self) -> int:
        return self._size

    def identity(self) -> dict[str, Any]:
        if self._stamps:
            return identify(self._stamps, self._size)
        return {
            "arrays": {name: _summary(values) for name, values in self._arrays.items()},
            "records": self._size,
        }

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self._size:
            raise IndexError(index)
        return {"__key__": f"{self._name}[{index}]"} | {
            field: values[index] for field, values in self._arrays.items()
        }


def _summary(values: Sequence[Any]) -> str:
    """The type and shape of an array, and a digest of up to 100 of its values, which are spread evenly."""
    kind = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
    digest = 0
    for index in np.unique(np.linspace(0, max(len(values) - 1, 0), min(len(values), 100)).astype(int)):
        digest = zlib.crc32(_to_bytes(values[index]), digest)
    return f"{kind} {digest:08x}"


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        return np.ascontiguousarray(value).tobytes()
    # Any other object is known by its type alone: its repr may hold its address.
    return json.dumps(value, default=lambda unknown: type(unknown).__name__, skipkeys=True).encode()
