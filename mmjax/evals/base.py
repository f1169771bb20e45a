"""The interface of evaluations: a frozen value that runs some heads on one dataset and returns a Result."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from mmjax import data
from mmjax.batch import Batch, is_present
from mmjax.data import Dataset
from mmjax.errors import InputError, NonFiniteError
from mmjax.ranges import Count, Fraction, Size, Whole
from mmjax.spec import Spec
from mmjax.views import View

# Writes one PNG to the given path. A function, because not every evaluation of a run is drawn.
DrawPicture = Callable[[Path], None]


class Predictor(Protocol):
    """A model on NumPy batches: `training.Predictor`, or a wrapper of it."""

    def __call__(
        self, batch: Batch, view: View, heads: tuple[str, ...], seed: int = 0
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]: ...

    def losses(self, batch: Batch, seed: int = 0) -> dict[str, np.ndarray]:
        """Returns {"loss/<objective>", "<objective>/<metric>"} of the batch, each a scalar."""
        ...


@dataclasses.dataclass(frozen=True)
class Result:
    """Metrics by name ("image->text/R@5"), and pictures by a name that is safe as a file name."""

    metrics: dict[str, float]
    pictures: dict[str, DrawPicture] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval(Spec, abc.ABC):
    """A measurement of a model on one dataset. Missing and bad examples and padding rows are never counted.

    every: steps between evaluations; 0 evaluates only at the end.
    limit: only the first examples of the data; None: all.
    subsets_of: evaluate once with each non-empty subset of these streams, the others missing (subsets.py).
    max_bad_fraction: a larger fraction of bad examples is refused; None: that of the run's training data, or
      else 0.01.
    """

    data: data.Dataset
    batch_size: Size = 64
    every: Whole = 0
    limit: Count | None = None
    subsets_of: tuple[str, ...] = ()
    max_bad_fraction: Fraction | None = None

    @abc.abstractmethod
    def required_heads(self) -> tuple[str, ...]:
        """The names of the heads whose predictions it reads."""

    @abc.abstractmethod
    def __call__(self, predictor: Predictor) -> Result:
        """Evaluates the model. Raises InputError without any example, NonFiniteError on NaN or infinity."""

    def batches(self) -> Iterator[Batch]:
        """The data in order, not augmented. The last batch is filled with rows that miss every stream.

        Raises:
            InputError: there is no example.
        """
        if not len(self.data.open()):
            raise InputError(f"{type(self).__name__}: expected examples in its data, found none")
        return self.batches_of(self.data, self.limit)

    def batches_of(self, dataset: Dataset, limit: int | None = None) -> Iterator[Batch]:
        """As `batches`, of other data, such as the training data of a baseline."""
        limits = {} if self.max_bad_fraction is None else {"max_bad_fraction": self.max_bad_fraction}
        return data.epoch(dataset, self.batch_size, limit, **limits)

    def check_no_subsets_of(self, hint: str) -> None:
        """Refuses `subsets_of` in an evaluation that has a field of its own for subsets, named in `hint`."""
        if self.subsets_of:
            raise InputError(
                f"{type(self).__name__} measures subsets by itself: expected subsets_of=(), found "
                f"{self.subsets_of}. {hint}"
            )

    def check_streams(self, *streams: str) -> None:
        """Refuses streams that the data do not have. Called at construction, so it reads no file."""
        needed = list(dict.fromkeys((*streams, *self.subsets_of)))
        missing = [stream for stream in needed if stream not in self.data.streams]
        if missing:
            raise InputError(
                f"{type(self).__name__} needs the streams {needed}, but its data have "
                f"{sorted(self.data.streams)}: add {missing} to the dataset, or name another stream"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadEval(Eval):
    """The base of evaluations that read one head."""

    head: str

    def required_heads(self) -> tuple[str, ...]:
        return (self.head,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingEval(Eval):
    """The base of evaluations that compare the embeddings of several streams.

    heads: {stream: its PooledEmbedding head}, or streams whose heads have the same names.
    """

    heads: dict[str, str] | tuple[str, ...]

    def heads_by_stream(self) -> dict[str, str]:
        """{stream: head}."""
        is_mapping = isinstance(self.heads, Mapping)
        return dict(self.heads) if is_mapping else {stream: stream for stream in self.heads}

    def required_heads(self) -> tuple[str, ...]:
        return tuple(self.heads_by_stream().values())


def has_streams(batch: Batch, *streams: str) -> np.ndarray:
    """Which rows have all these streams: bool "B"."""
    return np.logical_and.reduce([np.asarray(is_present(batch[stream])) for stream in streams])


def check_finite(name: str, values: np.ndarray) -> np.ndarray:
    """Returns `values` "..." of head `name`, or raises NonFiniteError: comparisons with NaN are all False."""
    if not np.isfinite(values).all():
        raise NonFiniteError(f"evaluation: the outputs of head {name!r} hold NaN or infinite values")
    return values


def interval_metrics(name: str, hits: np.ndarray, groups: np.ndarray | None = None) -> dict[str, float]:
    """{name, name/low, name/high}: the mean of `hits` "N" and its 95 % bootstrap percentile interval.

    Examples of one group in `groups` "N" are resampled together: thirty recordings of one queried word are
    one observation, not thirty. None: each example is a group of its own.
    """
    hits = np.asarray(hits, np.float64)
    index = np.arange(len(hits)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    sums, counts = np.bincount(index, hits), np.bincount(index)
    rng = np.random.default_rng(0)
    means = np.empty(1000)
    for n in range(len(means)):
        sampled = rng.integers(len(sums), size=len(sums))
        means[n] = sums[sampled].sum() / counts[sampled].sum()
    low, high = np.quantile(means, (0.025, 0.975))
    return {name: float(hits.mean()), f"{name}/low": float(low), f"{name}/high": float(high)}
