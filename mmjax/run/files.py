"""The names of a run's files, which folders it may train in, and the lock against other processes."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from mmjax.errors import InputError, excerpt, one_line, with_filename

EXPERIMENT = "experiment.txt"
METRICS = "metrics.jsonl"
EVALS = "evals.jsonl"
VOCABULARIES = "vocabularies.json"
DATA = "data.json"
MAX_BYTES = 2**26  # of a file that is read whole: a run of a stranger may hold any
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


def newest_step(path: Path) -> int:
    """The step of the newest checkpoint in a run's folder, whole or damaged; 0 if there is none."""
    folder = path / "checkpoints"
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isascii() and name.isdecimal()), default=0)


def refuse_another_experiment(path: Path, text: str, optimizer: Any = None) -> list[str]:
    """Raises InputError, with the differences, if `text` may not resume the experiment of the folder.

    Args:
      optimizer: that of the experiment, which decides whether `num_steps` may change.

    Returns:
      The fields that changed and may, a line each.
    """
    from mmjax.run.changes import Past, changes_of  # imports JAX, which reading a run does not need

    try:
        past = Past(read_text(path / EXPERIMENT), newest_step(path))
        allowed, refused = changes_of(past, text, optimizer)
    except InputError as error:
        raise InputError(
            f"{path / EXPERIMENT} is damaged, so {path} cannot be compared with this experiment: {error}. "
            "Restore it from a copy, or choose another folder with --run-dir"
        ) from error
    if refused:
        listed = "".join(f"\n  {line}" for line in refused[:8])
        more = f"\n  and {len(refused) - 8} more" if refused[8:] else ""
        raise InputError(
            f"{path} belongs to another experiment: expected the same, found (the run's -> this one's)"
            f"{listed}{more}\nRestore these fields, or choose another folder with --run-dir"
        )
    return allowed


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
    """The text of a file. Raises InputError if it is not UTF-8, no regular file, or too large."""
    if not file.is_file() or file.stat().st_size > MAX_BYTES:
        raise InputError(f"expected a file of at most {MAX_BYTES:,} bytes at {file}, found another")
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"expected text in {file}, found other bytes: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError for anything else."""
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON in {file}, found other text: {one_line(str(error))}") from error
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object in {file}, found {excerpt(value)}")
    return value
