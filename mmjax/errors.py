"""Errors that end a run. The command line turns each into an exit code."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_EXCERPT = 80  # characters of one value in a message
MAX_REASON = 300  # characters of one reason, which may be a library's


def excerpt(value: Any, limit: int = MAX_EXCERPT) -> str:
    """The repr of a user's value for a message: one line of at most `limit` characters.

    >>> excerpt("a" * 10, limit=6)
    "'aaaaa..."
    """
    if isinstance(value, str | bytes | list | tuple):
        value = value[: limit + 1]  # repr of 50 MB takes as much again
    return one_line(repr(value), limit)


def one_line(text: str, limit: int = MAX_REASON) -> str:
    """A text for a message: control characters escaped, addresses left out, cut to `limit` characters."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", text[: 4 * limit])
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
    return text if len(text) <= limit else text[:limit] + "..."


class InputError(Exception):
    """Bad usage, configuration or data: what was expected, what was found, what to do. Exit code 2."""


class SharedInputError(InputError):
    """An InputError that every process of the run raises at the same time, so that all can exit in order."""


class NonFiniteError(Exception):
    """A loss or gradient is NaN or infinite. Names the step and the objective. Exit code 3.

    step: the train step; None for an evaluation, or where a rollback would not help.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class Interrupted(Exception):
    """A signal stopped the run, whose state is saved. The same command resumes it. Exit code 75."""


@contextlib.contextmanager
def with_filename(file: Path) -> Iterator[None]:
    """Adds the name of `file` to an OSError that names none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error


def refuse_missing_file(path: Path) -> None:
    """Raises InputError unless `path` is a file, such as that of an experiment."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise InputError(f"expected an experiment file, found {found} at {path}")
