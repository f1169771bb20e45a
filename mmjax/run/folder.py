"""A run's folder: experiment.txt, metrics.jsonl, evals.jsonl, pictures/, checkpoints/ and tensorboard/."""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import InputError, with_filename
from mmjax.run import files
from mmjax.run.tensorboard import Events


class RunFolder:
    """The files of one run. `RunFolder(path)` reads; `RunFolder.claim` also writes, until `close`.

    path: the folder. writes: False in all but one of a training run's processes, which then write nothing.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens an existing run for reading.

        Raises:
          InputError: the path is no folder of a run.
        """
        self.path = Path(path)
        self.writes = True
        self._lock: Any = None
        self._events: Events | None = None
        if not (self.path / files.EXPERIMENT).is_file():
            found = "a folder without experiment.txt" if self.path.is_dir() else "nothing"
            raise InputError(
                f"expected the folder of a run (made by `mmjax train`), found {found} at {self.path}"
            )

    @classmethod
    def claim(cls, path: str | Path, text: str, *, writes: bool = True) -> "RunFolder":
        """A folder to train in: created if absent, resumed if it belongs to the same experiment.

        Args:
          text: the experiment as `to_text` prints it.
          writes: False in all but one of a run's processes: these neither claim nor write.

        Raises:
          InputError: the folder belongs to another experiment (CHANGEABLE_ON_RESUME fields may differ), holds
            other files, cannot be written, or another process trains in it.
        """
        path = Path(path)
        if any("\udc80" <= letter <= "\udcff" for letter in str(path)):  # Orbax cannot write to such a path
            raise InputError(f"expected a run folder whose name is UTF-8 text, found {str(path)!r}")
        if not writes:
            folder = cls.__new__(cls)  # not __init__: process 0 may not have created the folder yet
            folder.path, folder.writes, folder._lock, folder._events = path, False, None, None
            return folder
        with contextlib.ExitStack() as on_refusal:
            return cls._claim(path, text, on_refusal)

    @classmethod
    def _claim(cls, path: Path, text: str, on_refusal: contextlib.ExitStack) -> "RunFolder":
        try:
            path.mkdir(parents=True, exist_ok=True)
            files.refuse_read_only(path)
            started = (path / files.EXPERIMENT).is_file()
            if not started:
                files.refuse_other_files(path)
            lock = on_refusal.enter_context(files.lock_folder(path))
            if files.has_records(path):  # a folder without records may change its experiment
                files.refuse_another_experiment(path, text)
            files.write_atomically(path / files.EXPERIMENT, text)
            for name in ("pictures", "checkpoints"):
                (path / name).mkdir(exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"expected a folder to train in, found a file at {error.filename or path}"
            ) from error
        except OSError as error:
            raise files.not_writable(path, error) from error
        folder = cls(path)
        folder._lock = lock
        on_refusal.pop_all()
        return folder

    @property
    def text(self) -> str:
        """The experiment with all its fields, as `mmjax.experiment.to_text` printed it."""
        return files.read_text(self.path / files.EXPERIMENT)

    @property
    def pictures(self) -> Path:
        """The folder of PNG files."""
        return self.path / "pictures"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def resume(self, step: int) -> bool:
        """Deletes the rows after `step`, whose steps run again; at step 0, all rows.

        Returns:
          Whether a logged step was deleted.
        """
        if not self.writes:
            return False
        deletes = False
        if step == 0:
            (self.path / files.VOCABULARIES).unlink(missing_ok=True)
        for name in (files.METRICS, files.EVALS):
            file = self.path / name
            if file.exists():
                rows = _rows(file)
                remaining = [row for row in rows if row["step"] <= step and step > 0]
                deletes |= name == files.METRICS and len(remaining) < len(rows)
                _write_rows(file, remaining)
        if self._events is not None:
            self._events.close()
        self._events = Events(self.path / "tensorboard", purge_step=step + 1)
        return deletes

    def check_vocabularies(self, digests: Mapping[str, str]) -> None:
        """Records the run's vocabularies at the first call; later calls compare.

        A vocabulary trained on the data changes with the data: the same ids would mean other words.

        Args:
          digests: {stream: digest}.

        Raises:
          InputError: a vocabulary differs from the recorded one.
        """
        file = self.path / files.VOCABULARIES
        try:
            recorded = json.loads(file.read_bytes()) if file.exists() else None
        except ValueError as error:
            raise InputError(
                f"expected JSON in {file}, found other bytes: {error}. Delete it if data and tokenizers are "
                "those that the run was trained with"
            ) from error
        if recorded is None:
            if self._lock is not None:  # a reader leaves the folder unchanged
                files.write_atomically(file, json.dumps(digests, indent=1) + "\n")
            return
        changed = [name for name, digest in digests.items() if recorded.get(name, digest) != digest]
        if changed:
            raise InputError(
                f"expected the vocabularies that {self.path} was trained with, found others for "
                f"{', '.join(changed)}: the data or the tokenizer's folder have changed since. Restore them, "
                "or train again in another folder"
            )

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one logged step to metrics.jsonl and the TensorBoard events."""
        if self.writes:
            self._append(files.METRICS, {"step": step, **without_nan(metrics)})
            self._add_scalars(step, metrics, prefix="train")

    def write_eval(self, step: int, name: str, metrics: Mapping[str, float]) -> None:
        """Appends one evaluation's result to evals.jsonl and the TensorBoard events."""
        if self.writes:
            self._append(files.EVALS, {"step": step, "eval": name, **without_nan(metrics)})
            self._add_scalars(step, metrics, prefix=f"eval/{name}")

    def write_pictures(self, name: str, pictures: Mapping[str, Callable[[Path], None]]) -> list[Path]:
        """Draws pictures/<name>_<title>.png for each picture; returns the files.

        Args:
          pictures: {title: function that writes a PNG to a path}.
        """
        written = []
        if not self.writes:
            return written
        self.pictures.mkdir(exist_ok=True)
        for title, draw in pictures.items():
            safe = "".join(
                c if c.isalnum() or c in "-_." else "_" for c in f"{name}_{title}".replace("->", "-to-")
            )
            written.append(self.pictures / f"{safe}.png")
            draw(written[-1])
        return written

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, oldest first."""
        return _rows(self.path / files.METRICS)

    def evals(self) -> list[dict[str, Any]]:
        """The rows of evals.jsonl, oldest first."""
        return _rows(self.path / files.EVALS)

    def recorded(self, step: int, name: str) -> dict[str, float] | None:
        """The recorded result of an evaluation at a step, {metric: value}; None if there is none."""
        rows = [row for row in self.evals() if (row["step"], row.get("eval")) == (step, name)]
        if not rows:
            return None
        numbers = {key: value for key, value in rows[-1].items() if key not in ("step", "eval")}
        return {key: math.nan if value is None else value for key, value in numbers.items()}

    def scores(self, name: str, metric: str) -> dict[int, float]:
        """{step: value} of one metric of an evaluation, where it is finite."""
        rows = [row for row in self.evals() if row.get("eval") == name and row.get(metric) is not None]
        return {row["step"]: float(row[metric]) for row in rows}

    def running_count(self, name: str) -> int:
        """A running count such as `bad_examples`, at the last logged step; 0 before the first."""
        rows = self.metrics()
        return int(rows[-1].get(name) or 0) if rows else 0

    def amend_metrics(self, numbers: Mapping[str, float]) -> None:
        """Adds numbers to the last row of metrics.jsonl, if there is one."""
        rows = self.metrics() if self.writes else []
        if rows:
            rows[-1] |= without_nan(numbers)
            _write_rows(self.path / files.METRICS, rows)

    def close(self) -> None:
        """Closes the events and releases the folder to other processes."""
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
        with with_filename(file), file.open("a") as stream:  # closing the file flushes the row
            stream.write(json.dumps(row) + "\n")

    def _add_scalars(self, step: int, metrics: Mapping[str, float], *, prefix: str) -> None:
        self._events = self._events or Events(self.path / "tensorboard")
        self._events.add(step, {f"{prefix}/{name}": float(value) for name, value in metrics.items()})


def without_nan(metrics: Mapping[str, float]) -> dict[str, float | int | None]:
    """The metrics with NaN and infinity as None: JSON has neither."""
    finite = {}
    for name, value in metrics.items():
        number = value if isinstance(value, int) else float(value)
        finite[name] = number if math.isfinite(number) else None
    return finite


def _write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    files.write_atomically(file, "".join(json.dumps(row) + "\n" for row in rows))


def _rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file. An incomplete last line, left by a killed run, is skipped."""
    rows = []
    lines = file.read_bytes().splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not text
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
