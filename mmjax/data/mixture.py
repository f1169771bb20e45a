"""Mixtures: several datasets, which may have different modalities, in fixed proportions."""

import dataclasses
import functools

import numpy as np

from mmjax.batch import RECORDS, Batch, Records, Stream
from mmjax.data.collate import arrays
from mmjax.data.dataset import Dataset
from mmjax.data.text import TextTransform
from mmjax.errors import InputError
from mmjax.ranges import Fraction, Positive, Size
from mmjax.spec import Spec

_TOTAL = 2**30  # proportions are integers out of this total, so that rows are counted exactly at any step


@dataclasses.dataclass(frozen=True)
class Mixture(Spec):
    """The training data of a run.

    datasets: {name: (weight, dataset)}. Weights are proportions of rows and need not sum to 1.
    batch_size: rows of the global batch, over all processes.
    max_bad_fraction: a larger fraction of bad examples stops the run.
    """

    datasets: dict[str, tuple[Positive, Dataset]]
    batch_size: Size
    max_bad_fraction: Fraction = 0.01

    def __post_init__(self):
        if not self.datasets:
            raise InputError("expected at least one dataset in the mixture, found none")

    @classmethod
    def of(cls, dataset: Dataset, *, batch_size: int, max_bad_fraction: float = 0.01) -> "Mixture":
        """A mixture of one dataset."""
        return cls({"data": (1.0, dataset)}, batch_size, max_bad_fraction)

    def streams(self) -> dict[str, Stream]:
        """The streams of all datasets, as {stream: missing value} without batch axis.

        Raises:
            InputError: a stream has different types or shapes in two datasets.
        """
        union: dict[str, Stream] = {}
        first_dataset: dict[str, str] = {}
        for dataset_name, (_, dataset) in self.datasets.items():
            for name, blank in dataset.empty().items():
                if name in union and _describe(union[name]) != _describe(blank):
                    raise InputError(
                        f"expected one shape for the stream {name!r}, found {_describe(union[name])} in "
                        f"dataset {first_dataset[name]!r} and {_describe(blank)} in {dataset_name!r}. Give "
                        "both the same size, or the streams different names."
                    )
                union.setdefault(name, blank)
                first_dataset.setdefault(name, dataset_name)
        return union

    def vocabularies(self) -> dict[str, str]:
        """{"dataset/stream": digest of its vocabulary}. Raises InputError if a tokenizer cannot be opened."""
        return {
            f"{name}/{stream}": transform.tokenizer.open().digest()
            for name, (_, dataset) in self.datasets.items()
            for stream, transform in dataset.streams.items()
            if isinstance(transform, TextTransform)
        }

    def spec(self, batch_size: int | None = None) -> Batch:
        """The batch's types and shapes as jax.ShapeDtypeStruct, without reading any data."""
        import jax  # only for its shape type

        size = self.batch_size if batch_size is None else batch_size
        streams = {
            name: type(blank)(
                **{
                    field: jax.ShapeDtypeStruct((size, *array.shape), array.dtype)
                    for field, array in arrays(blank).items()
                }
            )
            for name, blank in self.streams().items()
        }
        shapes = (jax.ShapeDtypeStruct((size,), dtype) for dtype in (np.int32, np.bool_))
        return streams | {RECORDS: Records(*shapes)}

    def assign(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Assigns each row of the training to a dataset, and to a position in that dataset's own sequence.

        The datasets are interleaved evenly: of the first n rows, for any n, each gets its proportion, within
        a row or two. The assignment is a pure function of the row, so that no state has to be saved.

        Args:
            rows: int64 "rows", counted from the start of training: `step * batch_size + row`.

        Returns:
            The dataset's index, and the number of earlier rows of that dataset; int64 "rows" each.
        """
        return _assign(tuple(weight for weight, _ in self.datasets.values()), rows)

    def num_rows(self, num_steps: int) -> dict[str, int]:
        """{dataset: the number of rows of the first `num_steps` steps that it gives}."""
        weights = tuple(weight for weight, _ in self.datasets.values())
        remaining, given = num_steps * self.batch_size, {}
        for name, proportion in zip(self.datasets, (*_proportions(weights), _TOTAL), strict=True):
            given[name] = remaining * proportion // _TOTAL
            remaining -= given[name]
        return given


def _assign(weights: tuple[float, ...], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.asarray(rows, np.int64)
    dataset = np.full(rows.shape, len(weights) - 1, np.int64)
    position = rows.copy()
    unassigned = np.ones(rows.shape, bool)
    # Each dataset is set against all later ones. It takes row n of those left to them exactly where
    # floor(n * proportion) is about to increase; floor(n * proportion) counts the rows that it took before.
    for index, proportion in enumerate(_proportions(weights)):
        taken_before = _count(position, proportion)
        takes = unassigned & (_count(position + 1, proportion) > taken_before)
        dataset[takes] = index
        remaining = np.where(unassigned, position - taken_before, position)
        position = np.where(takes, taken_before, remaining)
        unassigned &= ~takes
    return dataset, position


@functools.lru_cache(maxsize=64)
def _proportions(weights: tuple[float, ...]) -> tuple[int, ...]:
    """For each but the last dataset, its weight among itself and the later ones, out of _TOTAL."""
    return tuple(round(weight / sum(weights[index:]) * _TOTAL) for index, weight in enumerate(weights[:-1]))


def _count(rows: np.ndarray, proportion: int) -> np.ndarray:
    """floor(rows * proportion / _TOTAL) without overflow: exact up to 2**60 rows."""
    return (rows // _TOTAL) * proportion + (rows % _TOTAL) * proportion // _TOTAL


def _describe(stream: Stream) -> str:
    """The stream's type and its arrays' types and shapes, to compare and to print."""
    fields = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays(stream).items())
    return f"{type(stream).__name__}({fields})"
