"""Batches as a pure function of (seed, step, row), so that the global step is the position in the data."""

import dataclasses
import functools
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mmjax.batch import RECORDS, Batch, Records, Stream
from mmjax.data.collate import collate
from mmjax.data.dataset import Dataset, Examples
from mmjax.data.mixture import Mixture
from mmjax.data.records import BadExample
from mmjax.errors import InputError

_LOG = logging.getLogger(__name__)
_MAX_DIFFERENT = 10_000  # bad examples that are remembered
_MAX_STEPS = 2**40  # of an endless run, since Grain needs a finite range


@dataclasses.dataclass(frozen=True)
class BadExamples:
    """The bad examples of one batch."""

    examples: list[tuple[str, str]]  # (key, reason) of each
    num_rows: int  # rows of the batch that this process loaded, good and bad


class BadExampleCounter:
    """Logs bad examples, and raises when they exceed the fraction `mixture.max_bad_fraction` of the rows.

    `add` checks the fraction once it has counted min(1000, number of records) rows, and after
    min(100, number of records) rows whether any was good, whatever the fraction is. It logs the first
    `max_logged` examples one by one, and only counts later ones.
    """

    def __init__(self, mixture: Mixture, max_logged: int = 100):
        self._mixture, self._max_logged = mixture, max_logged
        num_records = sum(len(dataset.open()) for _, dataset in mixture.datasets.values())
        self._min_rows, self._min_bad_rows = min(1000, num_records), min(100, num_records)
        # (key, reason) of different examples, in order: later epochs report the same ones again.
        self._different: dict[tuple[str, str], None] = {}
        self.num_bad = 0
        self.num_rows = 0

    def add(self, bad: BadExamples) -> None:
        """Counts and logs one batch. Raises InputError with the first few keys and reasons."""
        self.num_bad += len(bad.examples)
        self.num_rows += bad.num_rows
        for key, reason in bad.examples:
            if (key, reason) in self._different or len(self._different) >= _MAX_DIFFERENT:
                continue
            self._different[key, reason] = None
            if len(self._different) <= self._max_logged:
                _LOG.warning("skipped the bad example %s: %s", key, reason)
                if len(self._different) == self._max_logged:
                    _LOG.warning("further bad examples are counted and not listed here")
        if self.num_rows >= self._min_rows or self.num_bad == self.num_rows >= self._min_bad_rows:
            self.check()

    def check(self) -> None:
        """Checks the fraction, however few rows were counted. Raises InputError as `add` does."""
        if self.num_bad and self.num_bad == self.num_rows:
            raise InputError(
                f"expected good examples, found that all {self.num_rows} are bad. Correct the data or their "
                f"transforms.{self._list()}"
            )
        if self.num_bad > self._mixture.max_bad_fraction * self.num_rows:
            raise InputError(
                f"expected at most {self._mixture.max_bad_fraction:.2%} bad examples (max_bad_fraction), "
                f"found {self.num_bad} of {self.num_rows}. Correct the data or increase max_bad_fraction."
                f"{self._list()}"
            )

    def log_summary(self) -> None:
        """Logs the number of bad examples, and the first few."""
        if self.num_bad:
            _LOG.warning("skipped %d of %d examples.%s", self.num_bad, self.num_rows, self._list())

    def _list(self) -> str:
        """The first few different examples, one a line; none after a resume, before any was seen again."""
        lines = [f"  {key}: {reason}" for key, reason in itertools.islice(self._different, 5)]
        return "\n".join([" The first:", *lines]) if lines else " The log of the run lists them."


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
    """Yields augmented training batches of NumPy arrays. Each epoch of a dataset has its own random order.

    Args:
        mixture: the data.
        seed: of the order and of the augmentation.
        start_step: the global step of the first batch.
        rows: int "rows", the rows of the global batch that this process loads; None: all.
        num_threads: threads that prepare batches ahead of time, in each process.
        num_workers: worker processes that prepare batches; 0: this process prepares them.
        num_steps: the global step at which to stop; None: never.

    Raises:
        InputError: the data cannot be opened.
    """
    import grain

    if seed < 0 or start_step < 0:
        raise InputError(f"expected seed and start_step of at least 0, found {seed} and {start_step}")
    rows = np.arange(mixture.batch_size) if rows is None else np.asarray(rows, np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= mixture.batch_size):
        raise InputError(
            f"expected rows below batch_size={mixture.batch_size}, found {rows.min()} to {rows.max()}"
        )
    make_batch = _BatchMaker(mixture, seed, rows)
    make_batch.open()  # missing data raise here, once, rather than in every worker
    # Grain's elements are whole batches, since its overhead per element exceeds the cost of an example.
    steps = grain.MapDataset.range(start_step, _MAX_STEPS if num_steps is None else num_steps)
    # The buffer is long enough to cover a slow batch, and small in memory.
    read_options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * max(num_threads, 1))
    iterable = steps.map(make_batch).to_iter_dataset(read_options)
    if num_workers:
        _parse_flags()
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
        )
    return _raise_errors(iterable)


def _raise_errors(results: Iterable[Any]) -> Iterator[tuple[Batch, BadExamples]]:
    for result in results:
        if isinstance(result, InputError):
            raise result
        yield result


def _parse_flags() -> None:
    """Marks absl's flags as parsed, which Grain's workers require; mmjax itself uses argparse."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv[:1])


@dataclasses.dataclass(frozen=True)
class _BatchMaker:
    """Step -> batch. It is pickled to the workers, which open the data themselves."""

    mixture: Mixture
    seed: int
    rows: np.ndarray

    def open(self) -> list[Examples]:
        """The examples of each dataset. `Dataset.open` is cached: further calls take microseconds."""
        opened = [dataset.open() for _, dataset in self.mixture.datasets.values()]
        for name, examples in zip(self.mixture.datasets, opened, strict=True):
            if not len(examples):
                raise InputError(
                    f"expected examples in dataset {name!r}, found none. Correct its path or remove it."
                )
        return opened

    def __call__(self, step: int) -> tuple[Batch, BadExamples] | InputError:
        try:
            opened = self.open()
            examples, records, bad = [], [], list[tuple[str, str]]()
            first_records = np.cumsum([0, *map(len, opened)])  # number the records of all datasets
            datasets, positions = self.mixture.assign(int(step) * self.mixture.batch_size + self.rows)
            for row, number, position in zip(self.rows, datasets.tolist(), positions.tolist(), strict=True):
                dataset = opened[number]
                epoch, offset = divmod(position, len(dataset))
                index = int(_permutation(self.seed, number, epoch, len(dataset))[offset])
                # Philox is counter-based: (seed, step, row) gives a generator that overlaps with no other.
                counter = [0, 0, int(row), int(step)]
                rng = np.random.Generator(np.random.Philox(key=[self.seed, 1], counter=counter))
                examples.append(_read_example(dataset, index, rng, bad))
                records.append(first_records[number] + index)
            batch = collate(examples, self.mixture.streams())
            return batch | {RECORDS: _numbered(records)}, BadExamples(bad, len(self.rows))
        except InputError as error:
            return error  # as a value, since Grain changes the type of an exception raised in a worker


def _numbered(records: list[int]) -> Records:
    # Of more than 2**31 records some share a number, which matters only if they meet in one batch.
    index = (np.asarray(records, np.int64) % 2**31).astype(np.int32)
    return Records(index, np.ones(len(records), bool))


def _read_example(
    dataset: Examples, index: int, rng: np.random.Generator | None, bad: list[tuple[str, str]]
) -> dict[str, Stream]:
    """The example's streams; of a bad example none, and its (key, reason) is appended to `bad`."""
    try:
        return dataset.example(index, rng)
    except BadExample as error:
        bad.append((error.key, error.reason))
        return {}


@functools.lru_cache(maxsize=16)
def _permutation(seed: int, dataset: int, epoch: int, size: int) -> np.ndarray:
    """The order of a dataset's examples in one epoch: int "size"."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2], counter=[0, 0, dataset, epoch]))
    return rng.permutation(size)


def epoch(
    dataset: Dataset, batch_size: int, limit: int | None = None, *, max_bad_fraction: float = 0.01
) -> Iterator[Batch]:
    """Yields every example once, in order, not augmented. Rows without any stream pad the last batch.

    Args:
        dataset: the data.
        batch_size: rows of every batch.
        limit: read only the first so many examples.
        max_bad_fraction: bad examples become rows without any stream; a larger fraction raises InputError.
    """
    opened, empty = dataset.open(), dataset.empty()
    mixture = Mixture.of(dataset, batch_size=batch_size, max_bad_fraction=max_bad_fraction)
    counter = BadExampleCounter(mixture, max_logged=0)  # one summary at the end
    size = len(opened) if limit is None else min(limit, len(opened))
    for start in range(0, size, batch_size):
        bad: list[tuple[str, str]] = []
        indices = range(start, min(start + batch_size, size))
        examples = [_read_example(opened, index, None, bad) for index in indices]
        counter.add(BadExamples(bad, len(indices)))
        yield collate(examples + [{}] * (batch_size - len(examples)), empty)
    counter.check()
    counter.log_summary()
