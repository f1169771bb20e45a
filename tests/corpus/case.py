"""One case of the corpus: an input, what mmjax promises for it, and what came of it."""

import contextlib
import dataclasses
import io
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmjax.data import BadExample
from mmjax.errors import InputError

SECONDS = 30  # the bound of time for one case, on a slow machine that compiles beside other tests
MIB = 512  # the bound of memory for one case, above what the process held before it
MESSAGE = 700  # characters: a message of mmjax's, of which some 300 may be the user's input


@dataclasses.dataclass(frozen=True)
class Case:
    """An input and its promise.

    family: the kind of input: "tar", "image", ...
    name: what the input is, in words.
    promise: "refused": an InputError (exit code 2). "skipped": a BadExample, which is counted and named by
        its key. "right": the value of `give` equals `expected`.
    give: writes the input to an empty folder, hands it to mmjax, and returns what mmjax made of it.
    message: a regular expression that the message of a refused or skipped case matches.
    expected: the value of a right case, computed without mmjax.
    within: the largest absolute difference of a right case.
    """

    family: str
    name: str
    promise: Literal["refused", "skipped", "right"]
    give: Callable[[Path], Any]
    message: str = ""
    expected: Any = None
    within: float = 0.0

    def __str__(self) -> str:
        return f"{self.family}: {self.name}"


class Hung(BaseException):
    """The case took longer than SECONDS. No Exception, so that nothing between takes it for bad data."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a case.

    kind: as promised ("refused", "skipped", "right"), or "crashed", "silent", "hung", "flooded", "unclear".
    detail: the message, the value or the error.
    """

    kind: str
    detail: str


def outcome(case: Case, folder: Path) -> Outcome:
    """Runs one case in an empty folder, with bounds of time and memory."""
    before = _reset_peak_mib()
    try:
        with _time_limit(SECONDS):
            found = case.give(folder)
    except InputError as error:
        result = _judged(case, "refused", str(error))
    except BadExample as error:
        result = _judged(case, "skipped", str(error)) if error.key else Outcome("unclear", f"no key: {error}")
    except Hung:
        result = Outcome("hung", f"longer than {SECONDS} s")
    except (Exception, SystemExit) as error:
        result = Outcome("crashed", f"{type(error).__name__}: {error}")
    else:
        right = case.promise == "right" and _equal(found, case.expected, case.within)
        result = Outcome("right" if right else "silent", f"{found!r:.300}, expected {case.expected!r:.300}")
    grown = _peak_mib() - before
    return Outcome("flooded", f"{grown:.0f} MiB") if grown > MIB else result


def _judged(case: Case, kind: str, message: str) -> Outcome:
    if kind != case.promise:
        return Outcome(f"{kind}, not {case.promise}", message)
    if not re.search(case.message, message, re.DOTALL):
        return Outcome("unclear", f"expected {case.message!r} in {message!r}")
    if re.search(r"0x[0-9a-f]{8}", message) or re.search(r"[\x00-\x09\x0b-\x1f\x7f\x80-\x9f]", message):
        return Outcome("unclear", f"an address or a control character in {message!r}")
    if len(message) > MESSAGE:
        return Outcome("unclear", f"{len(message)} characters: {message[:300]!r}...")
    return Outcome(kind, message)


def _equal(found: Any, expected: Any, within: float) -> bool:
    if isinstance(expected, str | bytes | list | dict | type(None) | bool):
        return found == expected
    found, expected = np.asarray(found), np.asarray(expected)
    return found.shape == expected.shape and bool(np.all(np.abs(found - expected) <= within))


def command(*arguments: str) -> str:
    """Runs `mmjax ARGUMENTS` in this process; returns its standard output.

    Raises:
        InputError: with the last line of standard error, if the exit code is 2.
        AssertionError: for another exit code, or a traceback.
    """
    from mmjax.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as error:  # argparse
            code = error.code
    if "Traceback" in err.getvalue():
        raise AssertionError(err.getvalue())
    if code == 2:
        said = "\n" + err.getvalue()
        raise InputError(said[said.rindex("\nmmjax") + 1 :].rstrip("\n"))
    if code:
        raise AssertionError(f"exit code {code}: {err.getvalue()}")
    return out.getvalue()


@contextlib.contextmanager
def _time_limit(seconds: int):
    def stop(*_):
        raise Hung

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def _reset_peak_mib() -> float:
    """Makes the present memory of the process its peak, where Linux allows that; returns the peak."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_mib()


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
