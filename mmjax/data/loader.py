"""Batches as a pure function of (seed, step, row): the position in the data *is* the global step."""

import dataclasses
import functools
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mmjax.batch import Batch
from mmjax.data.collate import collate
from mmjax.data.dataset import Dataset
from mmjax.data.mixture import Mixture
from mmjax.data.records import BadExample
from mmjax.errors import InputError

_LOG = logging.getLogger(__name__)
_FOREVER = 2**40  # steps; Grain wants an end


@dataclasses.dataclass(frozen=True)
class BadExamples:
    """What was wrong with a batch's examples: (key, reason) of each bad one, among ``num_rows``."""

    examples: list[tuple[str, str]]
    num_rows: int


class BadExampleCounter:
    """Logs bad examples and ends the run when they are more than ``mixture.max_bad_fraction`` of the rows.

    The share is judged once min(1000, number of records) rows were seen, and at :meth:`finish`.
    """

    def __init__(self, mixture: Mixture):
        self._mixture = mixture
        self._judge_from = min(1000, sum(len(dataset.open()) for _, dataset in mixture.datasets.values()))
        self._first: dict[str, str] = {}  # key -> reason; later epochs meet the same ones again
        self.num_bad = 0
        self.num_rows = 0

    def add(self, bad: BadExamples) -> None:
        """Count one batch. Raises InputError with the first few keys and reasons."""
        self.num_bad += len(bad.examples)
        self.num_rows += bad.num_rows
        for key, reason in bad.examples:
            if key not in self._first:
                _LOG.warning("skipped the bad example %s: %s", key, reason)
                self._first[key] = reason
        if self.num_rows >= self._judge_from:
            self.check()

    def check(self) -> None:
        """Judge what was seen, however little. Raises InputError like :meth:`add`."""
        if self.num_bad > self._mixture.max_bad_fraction * self.num_rows:
            some = "\n".join(f"  {key}: {reason}" for key, reason in list(self._first.items())[:5])
            raise InputError(
                f"expected at most {self._mixture.max_bad_fraction:.2%} bad examples (max_bad_fraction), found "
                f"{self.num_bad} of {self.num_rows}. Mend the data or raise max_bad_fraction. The first:\n{some}"
            )


def batches(
    mixture: Mixture,
    *,
    seed: int,
    start_step: int,
    rows: np.ndarray | None = None,
    num_threads: int = 2,
    num_workers: int = 0,
    num_steps: int | None = None,
) -> Iterator[tuple[Batch, BadExamples]]:
    """The training batches from ``start_step`` on, shuffled anew each epoch, augmented; arrays are NumPy's.

    Args:
        mixture: what to draw from.
        seed: of the order and of the augmentation.
        start_step: the global step of the first batch.
        rows: int "rows", which rows of the global batch this process loads; None means all.
        num_threads: threads that make batches ahead of time, in each worker.
        num_workers: processes that do; 0 means none, this process.
        num_steps: the global step at which to stop; None means never.

    Raises:
        InputError: the data cannot be opened.
    """
    import grain

    if seed < 0 or start_step < 0:
        raise InputError(f"expected seed and start_step of at least 0, found {seed} and {start_step}")
    rows = np.arange(mixture.batch_size) if rows is None else np.asarray(rows, np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= mixture.batch_size):
        raise InputError(
            f"expected rows of a batch of {mixture.batch_size}, found {rows.min()} to {rows.max()}"
        )
    make = _MakeBatch(mixture, seed, rows)
    make.open()  # so that a missing folder is said here and once, rather than in every worker
    # Grain's elements are whole batches: its bookkeeping costs more than an example does.
    dataset = grain.MapDataset.range(start_step, _FOREVER if num_steps is None else num_steps).map(make)
    # buffer: enough that a slow batch is not waited for, few enough that memory stays small
    batches_ahead = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * max(num_threads, 1))
    iterable = dataset.to_iter_dataset(batches_ahead)
    if num_workers:
        _parse_flags()
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
        )
    return _raising(iterable)


def _raising(made: Iterable[tuple[Batch, BadExamples] | InputError]) -> Iterator[tuple[Batch, BadExamples]]:
    for batch in made:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def _parse_flags() -> None:
    """Grain's workers need absl's flags to have been parsed; ours are argparse's, so absl gets none."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1])


@dataclasses.dataclass(frozen=True)
class _MakeBatch:
    """Step -> batch. Travels to workers as a spec; whatever it opens is opened there."""

    mixture: Mixture
    seed: int
    rows: np.ndarray

    def open(self) -> list[Any]:
        """The examples of each dataset; they are memoised, so that calling again costs microseconds."""
        opened = [dataset.open() for _, dataset in self.mixture.datasets.values()]
        for name, examples in zip(self.mixture.datasets, opened, strict=True):
            if not len(examples):
                raise InputError(
                    f"expected examples in dataset {name!r}, found none. Correct its path or leave it out."
                )
        return opened

    def __call__(self, step: int) -> tuple[Batch, BadExamples] | InputError:
        try:
            return self._make(int(step))
        except InputError as error:
            return error  # as a value: Grain would rename an exception that leaves a worker

    def _make(self, step: int) -> tuple[Batch, BadExamples]:
        opened = self.open()
        examples, bad = [], []
        numbers, places = self.mixture.assign(step * self.mixture.batch_size + self.rows)
        for row, number, place in zip(self.rows.tolist(), numbers.tolist(), places.tolist(), strict=True):
            epoch, offset = divmod(place, len(opened[number]))
            index = int(_order(self.seed, number, epoch, len(opened[number]))[offset])
            # Philox counts: a generator of (seed, step, row) needs no hashing, and none overlaps another.
            rng = np.random.Generator(np.random.Philox(key=[self.seed, 1], counter=[0, 0, row, step]))
            try:
                examples.append(opened[number].example(index, rng))
            except BadExample as error:
                examples.append({})
                bad.append((error.key, error.reason))
        return collate(examples, self.mixture.streams()), BadExamples(bad, len(self.rows))


@functools.lru_cache(maxsize=16)
def _order(seed: int, dataset: int, epoch: int, size: int) -> np.ndarray:
    """The order of a dataset's examples in one epoch: int "size"."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2], counter=[0, 0, dataset, epoch]))
    return rng.permutation(size)


def epoch(
    dataset: Dataset, batch_size: int, limit: int | None = None, *, max_bad_fraction: float = 0.01
) -> Iterator[Batch]:
    """Every example once, in order, not augmented. Rows that miss everything fill up the last batch.

    Args:
        dataset: what to read.
        batch_size: rows of every batch, the last one too.
        limit: only the first so many examples.
        max_bad_fraction: bad examples become rows that miss everything; more than this raise InputError.
    """
    opened, blank = dataset.open(), dataset.empty()
    counter = BadExampleCounter(Mixture.of(dataset, batch_size=batch_size, max_bad_fraction=max_bad_fraction))
    size = len(opened) if limit is None else min(limit, len(opened))
    for start in range(0, size, batch_size):
        examples, bad = [], []
        indices = range(start, min(start + batch_size, size))
        for index in indices:
            try:
                examples.append(opened.example(index))
            except BadExample as error:
                examples.append({})
                bad.append((error.key, error.reason))
        counter.add(BadExamples(bad, len(indices)))
        yield collate(examples + [{}] * (batch_size - len(examples)), blank)
    counter.check()
