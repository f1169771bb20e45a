"""A run's folder: what the run is (experiment.txt), what it measured, its pictures and its checkpoints."""

import contextlib
import errno
import fcntl
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import InputError, with_filename
from mmjax.experiment.serialize import differences
from mmjax.run.tensorboard import Events

EXPERIMENT = "experiment.txt"
METRICS = "metrics.jsonl"
EVALS = "evals.jsonl"
VOCABULARIES = "vocabularies.json"
# A run may go on with other devices, keep other checkpoints, or meet its next bad step otherwise: what it has
# learned so far is the same.
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
OURS = {"lock", ".writable", EXPERIMENT + ".new"}  # what a claim that was killed half-way may leave


class RunFolder:
    """Readers make one of an existing run; ``claim`` makes one to train in, and holds it until ``close``."""

    def __init__(self, path: str | Path) -> None:
        """Opens an existing run for reading. Raises InputError if ``path`` is none."""
        self.path = Path(path)
        self.writes = True
        self._lock: Any = None
        self._events: Events | None = None
        if not (self.path / EXPERIMENT).is_file():
            there = "a folder without experiment.txt" if self.path.is_dir() else "nothing"
            raise InputError(
                f"expected the folder of a run (made by `mmjax train`), found {there} at {self.path}"
            )

    @classmethod
    def claim(cls, path: str | Path, text: str, *, writes: bool = True) -> "RunFolder":
        """The folder to train the experiment ``text`` in: made if absent, resumed if it is this experiment's.

        ``writes``: off in all but one of a run's processes, where the folder is neither claimed nor written.
        Raises InputError if it is another experiment's (MOVABLE fields may differ), holds other files,
        cannot be written, or another process trains in it.
        """
        path = Path(path)
        if any("\udc80" <= letter <= "\udcff" for letter in str(path)):  # Orbax cannot write there
            raise InputError(f"expected a run folder whose name is UTF-8 text, found {str(path)!r}")
        if not writes:
            folder = cls.__new__(cls)  # the process that writes may be about to make it
            folder.path, folder.writes, folder._lock, folder._events = path, False, None, None
            return folder
        with contextlib.ExitStack() as on_refusal:
            return cls._claim(path, text, on_refusal)

    @classmethod
    def _claim(cls, path: Path, text: str, on_refusal: contextlib.ExitStack) -> "RunFolder":
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_read_only(path)
            started = (path / EXPERIMENT).is_file()
            if not started:
                _refuse_other_files(path)
            lock = on_refusal.enter_context(_lock(path))
            if _has_records(path):  # else the folder is nobody's: nothing in it could be lost or mixed up
                _refuse_another_experiment(path, text)
            _write_atomically(path / EXPERIMENT, text)
            for name in ("pictures", "checkpoints"):
                (path / name).mkdir(exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"expected a folder to train in, found a file at {error.filename or path}"
            ) from error
        except OSError as error:
            raise _not_writable(path, error) from error
        folder = cls(path)
        folder._lock = lock
        on_refusal.pop_all()
        return folder

    @property
    def text(self) -> str:
        """The resolved experiment, as ``mmjax.experiment.to_text`` printed it."""
        return _read(self.path / EXPERIMENT)

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def resume(self, step: int) -> bool:
        """Forgets what was recorded after ``step``: those steps will run again. Step 0 forgets everything.

        Returns whether a logged step was forgotten.
        """
        if not self.writes:
            return False
        forgets = False
        if step == 0:
            (self.path / VOCABULARIES).unlink(missing_ok=True)
        for name in (METRICS, EVALS):
            file = self.path / name
            if file.exists():
                rows = _rows(file)
                kept = [row for row in rows if row["step"] <= step and step > 0]
                forgets |= name == METRICS and len(kept) < len(rows)
                _write_atomically(file, "".join(json.dumps(row) + "\n" for row in kept))
        if self._events is not None:
            self._events.close()
        self._events = Events(self.path / "tensorboard", purge_step=step + 1)
        return forgets

    def keep_vocabularies(self, digests: Mapping[str, str]) -> None:
        """Records at the first call which vocabularies the run reads; later, refuses others by InputError.

        A vocabulary that is trained on the data changes with the data: the same ids would mean other words.
        """
        file = self.path / VOCABULARIES
        try:
            kept = json.loads(file.read_bytes()) if file.exists() else None
        except ValueError as error:
            raise InputError(
                f"expected JSON in {file}, found other bytes: {error}. Delete it if data and tokenizers are "
                "those that the run was trained with"
            ) from error
        if kept is None:
            if self._lock is not None:  # who only looks leaves the folder as it is
                _write_atomically(file, json.dumps(digests, indent=1) + "\n")
            return
        changed = [name for name, digest in digests.items() if kept.get(name, digest) != digest]
        if changed:
            raise InputError(
                f"expected the vocabularies that {self.path} was trained with, found others for "
                f"{', '.join(changed)}: the data or the tokenizer's folder have changed since. Restore them, "
                "or train anew in another folder"
            )

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one logged step to metrics.jsonl and the TensorBoard events."""
        if self.writes:
            self._append(METRICS, {"step": step, **without_nan(metrics)})
            self._add_scalars(step, metrics, prefix="train")

    def write_eval(self, step: int, name: str, metrics: Mapping[str, float]) -> None:
        """Appends one evaluation's result to evals.jsonl and the TensorBoard events."""
        if self.writes:
            self._append(EVALS, {"step": step, "eval": name, **without_nan(metrics)})
            self._add_scalars(step, metrics, prefix=f"eval/{name}")

    def write_pictures(self, name: str, pictures: Mapping[str, Callable[[Path], None]]) -> list[Path]:
        """Lets each picture draw itself to ``pictures/<name>_<picture>.png``."""
        files = []
        if not self.writes:
            return files
        self.pictures.mkdir(exist_ok=True)
        for title, draw in pictures.items():
            safe = "".join(
                c if c.isalnum() or c in "-_." else "_" for c in f"{name}_{title}".replace("->", "-to-")
            )
            files.append(self.pictures / f"{safe}.png")
            draw(files[-1])
        return files

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged step so far, oldest first."""
        return _rows(self.path / METRICS)

    def evals(self) -> list[dict[str, Any]]:
        """Every evaluation so far, oldest first."""
        return _rows(self.path / EVALS)

    def recorded(self, step: int, name: str) -> dict[str, float] | None:
        """What ``write_eval`` wrote last for this step and evaluation; None if nothing."""
        rows = [row for row in self.evals() if (row["step"], row.get("eval")) == (step, name)]
        if not rows:
            return None
        numbers = {key: value for key, value in rows[-1].items() if key not in ("step", "eval")}
        return {key: math.nan if value is None else value for key, value in numbers.items()}

    def scores(self, name: str, metric: str) -> dict[int, float]:
        """{step: value} of one evaluation's metric, where it is a number."""
        rows = [row for row in self.evals() if row.get("eval") == name and row.get(metric) is not None]
        return {row["step"]: float(row[metric]) for row in rows}

    def counted(self, name: str) -> int:
        """A count that each logged step carries on (``bad_examples``): the last, or 0 before the first."""
        rows = self.metrics()
        return int(rows[-1].get(name) or 0) if rows else 0

    def amend_metrics(self, numbers: Mapping[str, float]) -> None:
        """Puts numbers into the last logged step's line, if there is one."""
        rows = self.metrics() if self.writes else []
        if rows:
            rows[-1] |= without_nan(numbers)
            _write_atomically(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in rows))

    def close(self) -> None:
        """Flushes the events and lets another process train here."""
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, name: str, row: dict[str, Any]) -> None:
        file = self.path / name
        with (
            with_filename(file),
            file.open("a") as stream,
        ):  # opened anew: a line is on disk when the call returns
            stream.write(json.dumps(row) + "\n")

    def _add_scalars(self, step: int, metrics: Mapping[str, float], *, prefix: str) -> None:
        self._events = self._events or Events(self.path / "tensorboard")
        self._events.add(step, {f"{prefix}/{name}": float(value) for name, value in metrics.items()})


def without_nan(metrics: Mapping[str, float]) -> dict[str, float | int | None]:
    """JSON has no NaN or infinity: they become null."""
    plain = {}
    for name, value in metrics.items():
        number = value if isinstance(value, int) else float(value)
        plain[name] = number if math.isfinite(number) else None
    return plain


def _rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file. A killed run may leave half a line at the end: it is left out."""
    rows = []
    lines = file.read_bytes().splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:  # no JSON, or no text at all
            if number == len(lines):
                break
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            found = line[:60].decode(errors="replace")
            raise InputError(
                f"expected a JSON object with a step in {file}, line {number}, found {found!r}: mend or "
                "delete the line"
            )
        rows.append(row)
    return rows


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"expected the text of an experiment, found other bytes: {error}") from error


def _refuse_read_only(path: Path) -> None:
    # Trying beats asking os.access: network file systems, and the superuser, answer otherwise.
    probe = path / ".writable"
    try:
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may try at the same time
    except OSError as error:
        raise _not_writable(path, error) from error


def _not_writable(path: Path, error: OSError) -> InputError:
    found = "full" if error.errno == errno.ENOSPC else "read-only"
    return InputError(
        f"expected a run folder that can be written, found {path} {found} ({error.strerror}): choose "
        "another with --run-dir"
    )


def _refuse_other_files(path: Path) -> None:
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in OURS)
    if others:
        raise InputError(
            f"expected an empty folder or a run to resume, found {path} with {', '.join(others[:5])} and no "
            f"{EXPERIMENT}: choose another with --run-dir"
        )


def _has_records(path: Path) -> bool:
    """Whether a step was ever logged or saved here."""
    metrics, checkpoints = path / METRICS, path / "checkpoints"
    saved = checkpoints.is_dir() and any(entry.name.isdecimal() for entry in checkpoints.iterdir())
    return saved or (metrics.is_file() and metrics.stat().st_size > 0)


def _refuse_another_experiment(path: Path, text: str) -> None:
    try:
        changed = differences(_read(path / EXPERIMENT), text, ignore=CHANGEABLE_ON_RESUME)
    except InputError as error:
        raise InputError(
            f"{path / EXPERIMENT} is damaged, so {path} cannot be told to be this experiment's: {error}"
        ) from error
    if changed:
        shown = "".join(f"\n  {line}" for line in changed[:12]) + ("\n  ..." if len(changed) > 12 else "")
        raise InputError(
            f"{path} belongs to another experiment: expected the same (only {', '.join(CHANGEABLE_ON_RESUME)} may "
            f"differ), found (the run's -> this one's){shown}\n"
            "Choose another with --run-dir, or delete this one"
        )


def _lock(path: Path) -> Any:
    """Held for as long as the file is open, so a killed process lets go of it."""
    stream = (path / "lock").open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise InputError(
            f"another process trains in {path}: wait for it, or choose another with --run-dir"
        ) from error
    return stream


def _write_atomically(file: Path, text: str) -> None:
    new = file.with_name(file.name + ".new")
    with with_filename(new), new.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
