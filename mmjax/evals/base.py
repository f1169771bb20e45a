"""What every evaluation is: a frozen value that reads some heads, walks one dataset and gives a Result."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from mmjax import data
from mmjax.batch import Batch, is_present
from mmjax.errors import InputError, NonFiniteError
from mmjax.views import View

# Writes one PNG to the path that it is given. Put off, because not every evaluation of a run is drawn.
DrawPicture = Callable[[Path], None]


class Predictor(Protocol):
    """``(batch, view, heads, seed) -> ({head: array}, targets)``, all NumPy: ``train.Predictor``."""

    def __call__(
        self, batch: Batch, view: View, heads: tuple[str, ...], seed: int = 0
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]: ...

    def losses(self, batch: Batch, seed: int = 0) -> dict[str, np.ndarray]:
        """``{"loss/<objective>", "<objective>/<metric>"}`` of the batch, each a scalar."""
        ...


@dataclasses.dataclass(frozen=True)
class Result:
    """Numbers by name (``"image->text/R@5"``), and pictures by a name that is safe as a file name."""

    metrics: dict[str, float]
    pictures: dict[str, DrawPicture] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval(abc.ABC):
    """A measurement of a model on one dataset; missing and bad examples and padding rows never count."""

    data: data.Dataset
    batch_size: int = 64
    every: int = 0  # steps between evaluations; 0 measures only at the end
    limit: int | None = None  # only the first examples of the data; None: all
    # Measured with each non-empty subset of these streams there and the others missing (subsets.py).
    subsets_of: tuple[str, ...] = ()

    @abc.abstractmethod
    def required_heads(self) -> tuple[str, ...]:
        """Names of the heads that it needs."""

    @abc.abstractmethod
    def __call__(self, predictor: Predictor) -> Result:
        """Measure. Raises InputError when the data hold nothing to measure, NonFiniteError on NaN or inf."""

    def batches(self) -> Iterator[Batch]:
        """The data in order, not augmented; the last batch is padded with rows that miss every stream."""
        return data.epoch(self.data, self.batch_size, self.limit)

    def check_no_subsets_of(self, instead: str) -> None:
        """For an evaluation with subsets of its own: it counts only examples that have all its streams."""
        if self.subsets_of:
            raise InputError(
                f"{type(self).__name__} measures subsets by itself: expected subsets_of=(), found "
                f"{self.subsets_of}. {instead}"
            )

    def check_streams(self, *streams: str) -> None:
        """Refuses at construction, which touches no disk, a stream that the data do not have."""
        needed = list(dict.fromkeys((*streams, *self.subsets_of)))
        missing = [stream for stream in needed if stream not in self.data.streams]
        if missing:
            raise InputError(
                f"{type(self).__name__} needs the streams {needed}, but its data have "
                f"{sorted(self.data.streams)}: add {missing} to the dataset, or name another stream"
            )


def has_streams(batch: Batch, *streams: str) -> np.ndarray:
    """Which rows have all these streams: bool ``"B"``."""
    return np.logical_and.reduce([np.asarray(is_present(batch[stream])) for stream in streams])


def check_finite(name: str, values: np.ndarray) -> np.ndarray:
    """The values, or NonFiniteError: comparisons with NaN are False and would rank a broken model first."""
    if not np.isfinite(values).all():
        raise NonFiniteError(f"evaluation: the outputs of head {name!r} hold NaN or infinite values")
    return values


def heads_by_stream(heads: Mapping[str, str] | tuple[str, ...]) -> dict[str, str]:
    """{stream: head}; a tuple of streams means that each head is named like its stream."""
    return dict(heads) if isinstance(heads, Mapping) else {stream: stream for stream in heads}


def accuracy_with_interval(
    hits: np.ndarray, groups: np.ndarray | None = None, *, seed: int = 0, resamples: int = 1000
) -> tuple[float, float, float]:
    """Mean of ``hits`` "N" and its 95 % bootstrap percentile interval.

    Examples of one ``groups`` value "N" are resampled together: thirty recordings asked for with one word
    are one observation, not thirty.
    """
    hits = np.asarray(hits, np.float64)
    index = np.arange(len(hits)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    sums, counts = np.bincount(index, hits), np.bincount(index)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for n in range(resamples):
        drawn = rng.integers(len(sums), size=len(sums))
        means[n] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, (0.025, 0.975))
    return float(hits.mean()), float(low), float(high)
