"""The ways in which a run ends early: raised by every layer, turned into exit codes by the command line."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class InputError(Exception):
    """Bad usage, configuration or data. Says what was expected, what was found, what to do. Exit code 2."""


class SharedRefusal(InputError):
    """An InputError that every process of the run raises at the same time, so that all can end in order."""


class NonFiniteError(Exception):
    """A loss or a gradient became NaN or infinite. Names the step and the objective. Exit code 3.

    step: the train step; None where it was no step, but an evaluation, or nothing that a return would mend.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class Interrupted(Exception):
    """A signal asked the run to stop, and its state is saved. The same command resumes it. Exit code 75."""


@contextlib.contextmanager
def with_filename(file: Path) -> Iterator[None]:
    """An OSError that names no file, as a full disk's does not, names ``file``."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error
