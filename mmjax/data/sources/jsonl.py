"""JSON Lines files: one object per line."""

import codecs
import dataclasses
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmjax.data.records import MAX_JSON_BYTES, BadExample, Record, parse_json
from mmjax.data.sources.base import FileSource, Reader, threadsafe_cache
from mmjax.data.sources.files import FileStamp, identify, open_unchanged, read_at, refuse_compressed
from mmjax.errors import InputError, excerpt

_CHUNK = 2**20  # bytes of a line that are read at once while lines are counted
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclasses.dataclass(frozen=True)
class Jsonl(FileSource):
    """JSON Lines files in UTF-8; each line's object is a record. Only offsets of lines are kept in memory.

    path, hint: see `FileSource`; the suffix is `.jsonl`.
    """

    def open(self) -> Reader:
        return _open(self.find(".jsonl"))


@threadsafe_cache
def _open(stamps: tuple[FileStamp, ...]) -> Reader:
    return _Lines(stamps)


class _Lines:
    def __init__(self, stamps: tuple[FileStamp, ...]):
        self._stamps = stamps
        # Four numbers per line: file index, line number from 1, offset, size. Flat, to save memory.
        self._index = array("q")
        for file_index, stamp in enumerate(stamps):
            with open(stamp.path, "rb", buffering=_CHUNK) as file:
                _refuse_other_formats(file, stamp)
                for line_number, offset, size in _lines(file):
                    self._index.extend((file_index, line_number, offset, size))
        if not self._index:
            raise InputError(
                f"expected a JSON object per line in {stamps[0].shown}, found no line in {len(stamps)} "
                "file(s). Correct the path, or fetch the data again."
            )

    def __len__(self) -> int:
        return len(self._index) // 4

    def identity(self) -> dict[str, Any]:
        return identify(self._stamps, len(self))

    def __getitem__(self, index: int) -> Record:
        file_index, line_number, offset, size = self._index[4 * index : 4 * index + 4]
        stamp = self._stamps[file_index]
        key = f"{Path(stamp.path).name}:{line_number}"
        if size > MAX_JSON_BYTES:
            raise BadExample(key, f"expected a line of at most {MAX_JSON_BYTES} bytes, found {size}")
        with open_unchanged(stamp) as file:
            line = read_at(file, size, offset).strip()
        record = parse_json(key, line)
        if not isinstance(record, dict):
            found = type(record).__name__
            raise BadExample(key, f"expected a JSON object, found a {found}: {excerpt(line, 40)}")
        return record | {"__key__": key}


def _lines(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """(line number from 1, offset, size) of each line that is not blank. Long lines are read in chunks."""
    number, offset, size, is_blank = 1, 0, 0, True
    file.seek(0)
    while chunk := file.readline(_CHUNK):
        size += len(chunk)
        is_blank = is_blank and not chunk.strip()
        if chunk.endswith(b"\n"):
            if not is_blank:
                yield number, offset, size
            number, offset, size, is_blank = number + 1, offset + size, 0, True
    if not is_blank:
        yield number, offset, size


def _refuse_other_formats(file: BinaryIO, stamp: FileStamp) -> None:
    start = file.read(16)
    refuse_compressed(stamp.path, start, "lines of JSON")
    if start.startswith(_UTF16):
        raise InputError(
            f"expected lines of JSON in UTF-8, found UTF-16 in {stamp.shown}. "
            "Convert it with `iconv -f UTF-16`."
        )
