"""Arrays in memory or in one .npz file."""

import dataclasses
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.data.records import Record
from mmjax.data.sources.base import FileSource, Reader, Source, threadsafe_cache
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
def _open_npz(files: tuple[tuple[str, int, int], ...], fields: tuple[str, ...]) -> Reader:
    if len(files) != 1:
        raise InputError(f"expected one .npz file, found {[path for path, _, _ in files]}. Name one of them.")
    path = files[0][0]
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if missing := [field for field in fields if field not in archive.files]:
                raise InputError(f"expected the arrays {missing} in {path}, found {sorted(archive.files)}")
            return _Rows(path.rpartition("/")[2], {name: archive[name] for name in fields or archive.files})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"expected an .npz file of plain arrays, found {path}: {error}") from error


class _Rows:
    def __init__(self, name: str, arrays: Mapping[str, Sequence[Any]]):
        if not arrays:
            raise InputError(f"expected at least one array in {name}, found none")
        sizes = {field: len(values) for field, values in arrays.items()}
        if len(set(sizes.values())) != 1:
            raise InputError(f"expected arrays of one length in {name}, found the lengths {sizes}")
        self._name, self._arrays, self._size = name, arrays, next(iter(sizes.values()))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self._size:
            raise IndexError(index)
        return {"__key__": f"{self._name}[{index}]"} | {
            field: values[index] for field, values in self._arrays.items()
        }
