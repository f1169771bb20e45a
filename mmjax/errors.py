"""Errors that end a run. The command line turns each into an exit code."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


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
