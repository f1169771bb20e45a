"""ArrayRecord files, Google's random-access container."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmjax.data.records import BadExample, Record
from mmjax.data.sources.base import FileSource, Reader, threadsafe_cache
from mmjax.data.sources.files import FileStamp, identify, open_unchanged
from mmjax.errors import InputError, one_line

_NUM_THREADS = 16  # that open shards


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
def _open(stamps: tuple[FileStamp, ...], field: str) -> Reader:
    return _Entries(stamps, field)


def explain(error: Exception) -> str:
    """The ArrayRecord library's message about a damaged file, without the hashes that it lists."""
    return one_line(str(error).partition(" (")[0]) or "no ArrayRecord, or a truncated one"


def _open_shard(stamp: FileStamp) -> Any:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    if not stamp.size:  # its library would retry
        raise InputError(f"expected an ArrayRecord file, found {stamp.shown} empty. Fetch it again.")
    try:
        return ArrayRecordDataSource(stamp.path)
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"expected an ArrayRecord file, found {stamp.shown}: {explain(error)}. Fetch it again."
        ) from error


class _Entries:
    def __init__(self, stamps: tuple[FileStamp, ...], field: str):
        with ThreadPoolExecutor(_NUM_THREADS) as threads:  # network file systems take long to open a file
            self._shards = list(threads.map(_open_shard, stamps))
        # The index of the first entry of each shard, and the number of all entries.
        self._starts = [0, *itertools.accumulate(len(shard) for shard in self._shards)]
        if not len(self):
            raise InputError(f"expected entries in {stamps[0].shown}, found none. Fetch the data again.")
        self._name, self._field, self._stamps = Path(stamps[0].path).name, field, stamps

    def __len__(self) -> int:
        return self._starts[-1]

    def identity(self) -> dict[str, Any]:
        return identify(self._stamps, len(self))

    def __getitem__(self, index: int) -> Record:
        import msgpack

        key = f"{self._name}[{index}]"
        number = bisect.bisect_right(self._starts, index) - 1
        try:
            with open_unchanged(self._stamps[number]):  # the library opens the file at the first read
                entry = self._shards[number][index - self._starts[number]]
        except (RuntimeError, ValueError) as error:  # a damaged chunk
            raise BadExample(key, f"expected an entry, found a damaged one: {explain(error)}") from error
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
