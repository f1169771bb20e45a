"""ArrayRecord files, Google's random-access container."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.data.records import BadExample, Record
from mmjax.data.sources.base import FileSource, Reader, threadsafe_cache
from mmjax.data.sources.paths import FileStamp, identify
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ArrayRecord(FileSource):
    """ArrayRecord files whose entries are maps packed by `pack`, or bytes.

    field: the field that holds an entry's bytes ("json", "jpg"). Empty: entries are packed maps.
    path, hint: see `FileSource`; the suffix is `.array_record`.
    """

    field: str = ""

    def open(self) -> Reader:
        return _open(self.find(".array_record"), self.field)


def pack(record: Mapping[str, Any]) -> bytes:
    """Packs a record as one ArrayRecord entry: a msgpack map of bytes, strings, numbers, lists and maps."""
    import msgpack

    return msgpack.Packer().pack(dict(record))


@threadsafe_cache
def _open(files: tuple[FileStamp, ...], field: str) -> Reader:
    return _Entries(files, field)


class _Entries:
    def __init__(self, stamps: tuple[FileStamp, ...], field: str):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        files = [path for path, _, _ in stamps]
        try:
            self._entries = ArrayRecordDataSource(files)
            self._size = len(self._entries)
        except (RuntimeError, ValueError, IndexError) as error:
            raise InputError(f"expected ArrayRecord files, found {files}: {error}") from error
        self._name, self._field = files[0].rpartition("/")[2], field
        self._stamps = stamps

    def __len__(self) -> int:
        return self._size

    def identity(self) -> dict[str, Any]:
        return identify(self._stamps, self._size)

    def __getitem__(self, index: int) -> Record:
        import msgpack

        key = f"{self._name}[{index}]"
        entry = self._entries[index]
        if self._field:
            return {"__key__": key, self._field: entry}
        try:
            record = msgpack.unpackb(entry)
        except ValueError as error:  # the base class of msgpack's errors
            raise BadExample(key, f"expected a packed map, found {entry[:20]!r}: {error}") from error
        if not isinstance(record, dict):
            found = type(record).__name__
            raise BadExample(
                key, f"expected a packed map, found a {found}. If entries are bytes, set `field`"
            )
        return {"__key__": key} | record
