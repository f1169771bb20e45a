"""The names of a run's files, which folders it may train in, and the lock against other processes."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

from mmjax.errors import InputError, with_filename

EXPERIMENT = "experiment.txt"
METRICS = "metrics.jsonl"
EVALS = "evals.jsonl"
VOCABULARIES = "vocabularies.json"
# Fields that may differ when a run resumes: they change nothing in the steps already taken.
CHANGEABLE_ON_RESUME = (
    "mesh",
    "rules",
    "max_to_keep",
    "keep_every",
    "keep_best",
    "best_mode",
    "on_nonfinite",
    "conflict_every",
)
# Files that a process killed while it claims the folder may leave.
CLAIM_FILES = {"lock", ".writable", EXPERIMENT + ".new"}


def refuse_read_only(path: Path) -> None:
    """Raises InputError if no file can be written in the folder."""
    # Write a file: os.access is wrong on network file systems and for the superuser.
    probe = path / ".writable"
    try:
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may try at the same time
    except OSError as error:
        raise not_writable(path, error) from error


def not_writable(path: Path, error: OSError) -> InputError:
    """The error for a folder that is full or read-only."""
    found = "full" if error.errno == errno.ENOSPC else "read-only"
    return InputError(
        f"expected a run folder that can be written, found {path} {found} ({error.strerror}): choose "
        "another with --run-dir"
    )


def refuse_other_files(path: Path) -> None:
    """Raises InputError if the folder holds files that are not a run's."""
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in CLAIM_FILES)
    if others:
        raise InputError(
            f"expected an empty folder or a run to resume, found {path} with {', '.join(others[:5])} and no "
            f"{EXPERIMENT}: choose another with --run-dir"
        )


def has_records(path: Path) -> bool:
    """Whether the folder has a logged or a saved step."""
    metrics, checkpoints = path / METRICS, path / "checkpoints"
    saved = checkpoints.is_dir() and any(entry.name.isdecimal() for entry in checkpoints.iterdir())
    return saved or (metrics.is_file() and metrics.stat().st_size > 0)


def refuse_another_experiment(path: Path, text: str) -> None:
    """Raises InputError, with the differences, if the folder's experiment is not the one of `text`."""
    from mmjax.experiment.serialize import differences  # imports JAX, which reading a run does not need

    try:
        changed = differences(read_text(path / EXPERIMENT), text, ignore=CHANGEABLE_ON_RESUME)
    except InputError as error:
        raise InputError(
            f"{path / EXPERIMENT} is damaged, so {path} cannot be compared with this experiment: {error}"
        ) from error
    if changed:
        listed = "".join(f"\n  {line}" for line in changed[:12]) + ("\n  ..." if len(changed) > 12 else "")
        raise InputError(
            f"{path} belongs to another experiment: expected the same (only "
            f"{', '.join(CHANGEABLE_ON_RESUME)} may differ), found (the run's -> this one's){listed}\n"
            "Choose another with --run-dir, or delete this one"
        )


def lock_folder(path: Path) -> Any:
    """An open file with an exclusive lock, which the system releases when the process ends."""
    stream = (path / "lock").open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise InputError(
            f"another process trains in {path}: wait for it, or choose another with --run-dir"
        ) from error
    return stream


def write_atomically(file: Path, text: str) -> None:
    """Writes a file so that a killed process leaves either the old or the new one."""
    new = file.with_name(file.name + ".new")
    with with_filename(new), new.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)


def read_text(file: Path) -> str:
    """The text of a file. Raises InputError if it is not UTF-8."""
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"expected the text of an experiment, found other bytes: {error}") from error
