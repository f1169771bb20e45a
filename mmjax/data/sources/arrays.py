"""Arrays in memory or in one .npz file."""

import dataclasses
import json
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.records import Record
from mmjax.data.sources.base import FileSource, Reader, Source, spread_indices, threadsafe_cache
from mmjax.data.sources.files import FileStamp, identify
from mmjax.errors import InputError, excerpt, one_line
from mmjax.spec import Spec

_MAX_UNPACKED = 256 * 2**20  # bytes of the arrays of one .npz file, or
_MAX_RATIO = 10  # times its size: a bomb of 10 MB can hold 10 GB of zeros
_DAMAGED = (  # what zipfile, its decompressors and NumPy raise for damaged, encrypted or foreign files
    OSError, ValueError, EOFError, RuntimeError, NotImplementedError, OverflowError, KeyError, TypeError,
    SyntaxError, tokenize.TokenError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(Spec, Source):
    """Arrays of equal length, e.g. {"image": uint8 "n height width"}; record i holds element i of each.

    Equal only to itself: arrays have no hash, and comparing them would be slow.
    """

    arrays: dict[str, Any]

    def open(self) -> Reader:
        return _open_arrays(self)


@dataclasses.dataclass(frozen=True)
class Npz(FileSource):
    """The arrays of one .npz file, loaded into memory. Pickled objects are refused.

    So is a file whose arrays take more than 256 MiB and more than ten times its size: save such arrays
    without compression, by `np.savez`.

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
        raise InputError(f"expected one .npz file, found {[file.shown for file in files]}. Name one of them.")
    name = Path(files[0].path).name
    try:
        with zipfile.ZipFile(files[0].path) as archive:
            return _Rows(name, _read_npz(archive, files[0], fields), files)
    except _DAMAGED as error:
        raise InputError(
            f"expected an .npz file of plain arrays, found {files[0].shown}: {one_line(str(error))}"
        ) from error


def _read_npz(archive: zipfile.ZipFile, file: FileStamp, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise InputError(f"expected each array once in {file.shown}, found {len(archive.infolist())} members")
    if missing := [field for field in fields if field not in members]:
        raise InputError(f"expected the arrays {missing} in {file.shown}, found {excerpt(sorted(members))}")
    chosen = {field: members[field] for field in fields or members}
    num_bytes = sum(info.file_size for info in chosen.values())
    if num_bytes > max(_MAX_UNPACKED, _MAX_RATIO * file.size):
        raise InputError(
            f"expected arrays of at most ten times the {file.size} bytes of {file.shown}, found {num_bytes} "
            "bytes. Save them without compression, by np.savez."
        )
    return {field: _read_array(archive, info) for field, info in chosen.items()}


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Reads one array, after comparing its shape with its size: NumPy allocates what the header claims."""
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in read_header:
            raise ValueError(f"{excerpt(info.filename)} has the format {version}")
        shape, _, dtype = read_header[version](member)
        if dtype.hasobject:
            raise ValueError(f"{excerpt(info.filename)} holds pickled objects")
        if not shape:
            raise ValueError(f"{excerpt(info.filename)} holds one number, not an array of records")
        found = info.file_size - member.tell()
        if min(shape) < 0 or math.prod(shape) * dtype.itemsize != found or (shape[0] and not found):
            raise ValueError(f"{excerpt(info.filename)} claims the shape {shape} of {dtype} in {found} bytes")
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


class _Rows:
    def __init__(self, name: str, arrays: Mapping[str, Sequence[Any]], stamps: tuple[FileStamp, ...] = ()):
        if not arrays:
            raise InputError(f"expected at least one array in {name}, found none")
        for field, values in arrays.items():
            if isinstance(values, str | bytes | Mapping | set) or not getattr(
                values, "shape", hasattr(values, "__len__")
            ):
                found = f"{type(values).__name__} {excerpt(values)}"
                raise InputError(
                    f"expected an array or list of records in {field!r} of {name}, found {found}"
                )
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
        record = {field: values[index] for field, values in self._arrays.items()}
        key = record.get("__key__", f"{self._name}[{index}]")
        return record | {"__key__": str(key)}


def _summary(values: Sequence[Any]) -> str:
    """The type and shape of an array, and a digest of up to 100 of its values, which are spread evenly."""
    kind = f"{values.dtype} {values.shape}" if hasattr(values, "dtype") else type(values).__name__
    digest = 0
    for index in spread_indices(len(values), 100):
        digest = zlib.crc32(_to_bytes(values[index]), digest)
    return f"{kind} {digest:08x}"


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if hasattr(value, "dtype") and (array := np.asarray(value)).dtype != object:
        return array.tobytes()
    # Any other object is known by its type alone: its repr may hold its address.
    return json.dumps(value, default=lambda unknown: type(unknown).__name__, skipkeys=True).encode()
