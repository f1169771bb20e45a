"""A run's folder: experiment.txt, logs, checkpoints, pictures and what its data and tokenizers are."""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import InputError, excerpt, one_line
from mmjax.run import files, json_lines
from mmjax.run.tensorboard import Events

log = logging.getLogger(__name__)


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
            missing = "a file" if self.path.is_file() else "nothing"
            found = "a folder without experiment.txt" if self.path.is_dir() else missing
            raise InputError(
                f"expected the folder of a run (made by `mmjax train`), found {found} at {self.path}"
            )
        if self.checkpoints.exists() and not self.checkpoints.is_dir():
            raise InputError(f"expected a folder at {self.checkpoints}, found a file: move it away")

    @classmethod
    def claim(cls, path: str | Path, text: str, optimizer: Any = None, *, writes: bool = True) -> "RunFolder":
        """A folder to train in: created if absent, resumed if it belongs to the same experiment.

        Args:
          text: the experiment as `to_text` prints it.
          optimizer: the experiment's, which decides whether `num_steps` may differ; None: it may not.
          writes: False in all but one of a run's processes: these neither claim nor write.

        Raises:
          InputError: the folder belongs to another experiment (changes.py: some fields may differ), holds
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
            return cls._claim(path, text, optimizer, on_refusal)

    @classmethod
    def _claim(cls, path: Path, text: str, optimizer: Any, on_refusal: contextlib.ExitStack) -> "RunFolder":
        try:
            path.mkdir(parents=True, exist_ok=True)
            files.refuse_read_only(path)
            started = (path / files.EXPERIMENT).is_file()
            if not started:
                files.refuse_other_files(path)
            lock = on_refusal.enter_context(files.lock_folder(path))
            if files.has_records(path):  # a folder without records may change its experiment
                for change in files.refuse_another_experiment(path, text, optimizer):
                    log.info("the run goes on with another %s", change)
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
    def claimed(self) -> bool:
        """Whether this process holds the folder's lock, and so may write its records."""
        return self._lock is not None

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
        if step == 0:  # no step depends on the data and vocabularies of an earlier start
            for name in (files.VOCABULARIES, files.DATA):
                (self.path / name).unlink(missing_ok=True)
        for name in (files.METRICS, files.EVALS):
            file = self.path / name
            if file.exists():
                json_lines.mend_end(file)
                rows = json_lines.read_rows(file)
                remaining = [row for row in rows if row["step"] <= step and step > 0]
                deletes |= name == files.METRICS and len(remaining) < len(rows)
                json_lines.write_rows(file, remaining)
        if self._events is not None:
            self._events.close()
        self._events = Events(self.path / "tensorboard", purge_step=step + 1)
        return deletes

    def check_vocabularies(self, digests: Mapping[str, str]) -> None:
        """Compares with the recorded vocabularies; records those that are new.

        A vocabulary trained on the data changes with the data: the same ids would mean other words.

        Args:
          digests: {stream: digest}.

        Raises:
          InputError: a vocabulary differs from the recorded one.
        """
        recorded = self.vocabularies()
        changed = [name for name, digest in digests.items() if recorded.get(name, digest) != digest]
        if changed:
            raise InputError(
                f"expected the vocabularies that {self.path} was trained with, found others for "
                f"{one_line(', '.join(changed))}: the data or the tokenizer's folder have changed since. "
                "Restore them, or train again in another folder"
            )
        if self.claimed and recorded.keys() != recorded.keys() | digests.keys():  # a reader changes nothing
            text = json.dumps(recorded | dict(digests), indent=1) + "\n"
            files.write_atomically(self.path / files.VOCABULARIES, text)

    def vocabularies(self) -> dict[str, str]:
        """{name: digest} of the recorded vocabularies; empty before the first start and without texts.

        Raises:
          InputError: the file is damaged.
        """
        file = self.path / files.VOCABULARIES
        recorded = files.read_json(file) if file.exists() else {}
        if not all(isinstance(digest, str) for digest in recorded.values()):
            raise InputError(
                f"expected the digests of vocabularies in {file}, found {excerpt(recorded)}: restore the "
                "file, or delete it if data and tokenizers are those that the run was trained with"
            )
        return recorded

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
        return json_lines.read_rows(self.path / files.METRICS)

    def evals(self) -> list[dict[str, Any]]:
        """The rows of evals.jsonl, oldest first."""
        return json_lines.read_rows(self.path / files.EVALS)

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
            json_lines.write_rows(self.path / files.METRICS, rows)

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
        json_lines.append_row(self.path / name, row)

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
