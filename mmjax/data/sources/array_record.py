"""ArrayRecord files: Google's random-access container."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.data.records import BadExample, Record
from mmjax.data.sources.paths import Reader, find_files, fingerprint, threadsafe_cache
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ArrayRecord:
    """ArrayRecord files whose entries are maps of fields packed by :func:`pack`, or bare bytes.

    Args:
        path: a file, a folder of ``*.array_record``, a glob, or a tuple of those.
        field: the field that an entry's bytes become (``"json"``, ``"jpg"``); empty: entries are packed maps.
        hint: how to get the data; the end of the message when nothing is there.
    """

    path: str | tuple[str, ...]
    field: str = ""
    hint: str = ""

    def open(self) -> Reader:
        """Raises InputError where there is no file or none that ArrayRecord can read."""
        return _open(fingerprint(find_files(self.path, ".array_record", self.hint)), self.field)


def pack(record: Mapping[str, Any]) -> bytes:
    """One entry for an ArrayRecord file: a msgpack map of bytes, texts, numbers, lists and maps."""
    import msgpack

    return msgpack.Packer().pack(dict(record))


@threadsafe_cache
def _open(stamps: tuple[tuple[str, int, int], ...], field: str) -> Reader:
    return _Entries([path for path, _, _ in stamps], field)


class _Entries:
    def __init__(self, files: list[str], field: str):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        try:
            self._entries = ArrayRecordDataSource(files)
            self._size = len(self._entries)
        except (RuntimeError, ValueError, IndexError) as error:
            raise InputError(f"expected ArrayRecord files, found {files}: {error}") from error
        self._name, self._field = files[0].rpartition("/")[2], field

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Record:
        import msgpack

        key = f"{self._name}[{index}]"
        entry = self._entries[index]
        if self._field:
            return {"__key__": key, self._field: entry}
        try:
            record = msgpack.unpackb(entry)
        except ValueError as error:  # every error of msgpack derives from it
            raise BadExample(key, f"expected a packed map, found {entry[:20]!r}: {error}") from error
        if not isinstance(record, dict):
            raise BadExample(
                key,
                f"expected a packed map, found a {type(record).__name__}. Name the field that the bytes are",
            )
        return {"__key__": key} | record
