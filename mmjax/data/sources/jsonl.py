"""JSON Lines: one object a line."""

import dataclasses
import json
import os
from array import array
from pathlib import Path

from mmjax.data.records import BadExample, Record
from mmjax.data.sources.paths import Reader, find_files, fingerprint, threadsafe_cache


@dataclasses.dataclass(frozen=True)
class Jsonl:
    """Each line's object is a record, its names the fields. Only the lines' offsets are held in memory.

    Args:
        path: a file, a folder of ``*.jsonl``, a glob, or a tuple of those.
        hint: how to get the data; the end of the message when nothing is there.
    """

    path: str | tuple[str, ...]
    hint: str = ""

    def open(self) -> Reader:
        """Find the lines. Raises InputError where no file is; a bad line, BadExample when read."""
        return _open(fingerprint(find_files(self.path, ".jsonl", self.hint)))


@threadsafe_cache
def _open(stamps: tuple[tuple[str, int, int], ...]) -> Reader:
    return _Lines([Path(path) for path, _, _ in stamps])


class _Lines:
    def __init__(self, files: list[Path]):
        self._files = files
        # File, line number from 1, offset, size of each line; flat, since there may be very many.
        self._places = array("q")
        for number, file in enumerate(files):
            offset = 0
            with file.open("rb") as lines:
                for line_number, line in enumerate(lines, start=1):
                    if line.strip():
                        self._places.extend((number, line_number, offset, len(line)))
                    offset += len(line)

    def __len__(self) -> int:
        return len(self._places) // 4

    def __getitem__(self, index: int) -> Record:
        number, line_number, offset, size = self._places[4 * index : 4 * index + 4]
        key = f"{self._files[number].name}:{line_number}"
        file = os.open(self._files[number], os.O_RDONLY)
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
