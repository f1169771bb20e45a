"""The process of a command: its standard streams and the environment variables that JAX reads."""

import functools
import logging
import os
import subprocess
import sys
from typing import Any, TextIO

from mmjax.errors import InputError, excerpt, one_line

# Starting a backend raises these; an AssertionError where JAX_PLATFORMS names no platform of this machine.
BACKEND_ERRORS = (RuntimeError, AssertionError, ValueError)


def refuse_closed_streams() -> None:
    """Raises InputError if a standard stream is closed: files that are opened later would take its place."""
    for name, stream in (("output", sys.stdout), ("error", sys.stderr)):
        if stream is None:
            raise InputError(f"expected an open standard {name}, found it closed: redirect it to /dev/null")


def say(message: str) -> None:
    """Writes a line to standard error or, where that is closed, to standard output."""
    stream: TextIO | None = sys.stderr or sys.stdout
    try:
        print(printable(message), file=stream, flush=True)
    except OSError:  # both are full or closed: the exit code has to do
        discard_output()


def printable(message: str, limit: int = 1000) -> str:
    """A message for the terminal: control characters but its line breaks are escaped, long lines are cut."""
    return "\n".join(one_line(line, limit) for line in message.split("\n"))


class LogFormatter(logging.Formatter):
    """Escapes control characters, such as those of a record's key, in the lines of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of a log record."""
        return printable(super().formatMessage(record), limit=10_000)


def discard_output() -> None:
    """Leads streams that cannot be written to /dev/null, so that the flush at exit does not fail too."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, AttributeError):  # AttributeError: None, a closed stream
            if stream is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def import_jax() -> Any:
    """The module jax. Raises InputError if an environment variable keeps it from being imported."""
    _refuse_unknown_xla_flags(os.environ.get("XLA_FLAGS", ""))
    try:
        import jax
    except BACKEND_ERRORS as error:
        raise InputError(f"JAX does not start: {one_line(str(error))}. {_variables()}") from error
    return jax


def check_devices() -> None:
    """Raises InputError if JAX finds no device, such as for JAX_PLATFORMS=cuda without a GPU."""
    jax = import_jax()
    try:
        jax.devices()
    except BACKEND_ERRORS as error:
        reason = one_line(str(error)) or "no platform has a device"
        raise InputError(f"JAX finds no device: {reason}. {_variables()}") from error


def _variables() -> str:
    found = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    listed = ", ".join(f"{name}={excerpt(value)}" for name, value in sorted(found.items())[:8])
    return f"Correct or unset the variables that JAX reads, now {listed or 'none'}"


@functools.cache
def _refuse_unknown_xla_flags(flags: str) -> None:
    """Raises InputError for XLA_FLAGS that XLA does not know. XLA itself would abort the process."""
    if not flags:
        return
    parse = "import jaxlib.xla_client as client; client.CompileOptions()"
    probe = subprocess.run(
        [sys.executable, "-c", parse], env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if probe.returncode:
        line = next((x for x in probe.stderr.splitlines() if "XLA_FLAGS" in x or "parse" in x), "")
        reason = one_line(line.partition("] ")[2] or line, 200)
        raise InputError(
            f"expected flags of XLA in XLA_FLAGS, found {excerpt(flags)}: {reason}. Correct or unset it"
        )
