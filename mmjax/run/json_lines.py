"""JSON Lines files of a run: rows with a step and numbers, appended one at a time, safe against kills."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.errors import InputError, excerpt, with_filename
from mmjax.run import files

Row = dict[str, Any]
log = logging.getLogger(__name__)


def read_rows(file: Path) -> list[Row]:
    """The rows of a file, oldest first; none if there is no file.

    A last line without a line break, which a killed process leaves, is a row only if it is complete.

    Raises:
      InputError: a damaged line, or no regular file.
    """
    rows = []
    lines = _read_bytes(file).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise InputError(
                f"expected a JSON object with a step and numbers in {file}, line {number}, found "
                f"{excerpt(line.decode(errors='replace'))}: mend or delete the line"
            )
    return rows


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the file."""
    files.write_atomically(file, "".join(json.dumps(row) + "\n" for row in rows))


def append_row(file: Path, row: Mapping[str, Any]) -> None:
    """Adds a row as the last line; an OSError names the file."""
    mend_end(file)
    with with_filename(file), file.open("a", encoding="utf-8") as stream:  # closing the file flushes the row
        stream.write(json.dumps(row) + "\n")


def mend_end(file: Path) -> None:
    """Ends the last line where a killed process did not: adds the line break, or cuts what is half a row."""
    _refuse_other_than_file(file)
    if not file.exists() or not file.stat().st_size:
        return
    with with_filename(file), file.open("rb+") as stream:
        stream.seek(-1, 2)
        if stream.read() == b"\n":
            return
        start, last_line = _last_line(stream)
        if _parse(last_line) is None:
            stream.truncate(start)
            done = f"cut {len(last_line)} bytes of half a row"
        else:
            stream.seek(0, 2)
            stream.write(b"\n")
            done = "ended the last line"
    log.warning("%s: %s, which a killed process left", file, done)


def _last_line(stream: Any) -> tuple[int, bytes]:
    """(its first byte's position, content) of what follows the last line break."""
    end = stream.seek(0, 2)
    size = 2**16
    while True:
        start = max(0, end - size)
        stream.seek(start)
        tail = stream.read()
        before, line_break, last_line = tail.rpartition(b"\n")
        if line_break or not start:
            return start + len(before) + len(line_break), last_line
        size *= 2


def _read_bytes(file: Path) -> bytes:
    _refuse_other_than_file(file)
    return file.read_bytes() if file.exists() else b""


def _refuse_other_than_file(file: Path) -> None:
    if file.exists() and not file.is_file():  # a pipe would block
        found = "a folder" if file.is_dir() else "a pipe or a device"
        raise InputError(f"expected a file at {file}, found {found}: move it away")


def _parse(line: bytes) -> Row | None:
    """The row in a line: step, numbers or null by name, in evals.jsonl the evaluation. None: damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or not 0 <= row["step"] < 2**63:
        return None
    numbers = [value for name, value in row.items() if name != "eval"]
    return row if isinstance(row.get("eval", ""), str) and all(map(_is_number, numbers)) else None


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
