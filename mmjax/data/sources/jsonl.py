"""JSON Lines files: one object per line."""

import dataclasses
import json
import os
from array import array
from pathlib import Path
from typing import Any

from mmjax.data.records import BadExample, Record
from mmjax.data.sources.base import FileSource, Reader, threadsafe_cache
from mmjax.data.sources.paths import FileStamp, identify


@dataclasses.dataclass(frozen=True)
class Jsonl(FileSource):
    """JSON Lines files; each line's object is a record. Only the offsets of lines are kept in memory.

    path, hint: see `FileSource`; the suffix is `.jsonl`.
    """

    def open(self) -> Reader:
        return _open(self.find(".jsonl"))


@threadsafe_cache
def _open(files: tuple[FileStamp, ...]) -> Reader:
    return _Lines(files)


class _Lines:
    def __init__(self, stamps: tuple[FileStamp, ...]):
        self._stamps, self._files = stamps, [Path(path) for path, _, _ in stamps]
        # Four numbers per line: file index, line number from 1, offset, size. Flat, to save memory.
        self._index = array("q")
        for file_index, file in enumerate(self._files):
            offset = 0
            with file.open("rb") as lines:
                for line_number, line in enumerate(lines, start=1):
                    if line.strip():
                        self._index.extend((file_index, line_number, offset, len(line)))
                    offset += len(line)

    def __len__(self) -> int:
        return len(self._index) // 4

    def identity(self) -> dict[str, Any]:
        return identify(self._stamps, len(self))

    def __getitem__(self, index: int) -> Record:
        file_index, line_number, offset, size = self._index[4 * index : 4 * index + 4]
        key = f"{self._files[file_index].name}:{line_number}"
        file = os.open(self._files[file_index], os.O_RDONLY)
        try:
            line = os.pread(file, size, offset).rstrip()
        finally:
            os.close(file)
        try:
            record = json.loads(line)
        except UnicodeDecodeError as error:
            raise BadExample(
                key, f"expected UTF-8, found the byte {line[error.start]:#04x} at {error.start}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise BadExample(key, f"expected a JSON object, found {line[:40]!r}: {error}") from error
        if not isinstance(record, dict):
            raise BadExample(key, f"expected a JSON object, found a {type(record).__name__}")
        return record | {"__key__": key}
