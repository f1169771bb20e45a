"""Several datasets, which may have different modalities, in fixed proportions."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.batch import Batch, Stream
from mmjax.data.dataset import Dataset
from mmjax.data.text import TextTransform
from mmjax.errors import InputError

_PARTS = 2**30  # proportions are whole numbers of these parts, so that counting rows is exact at any step


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What a run trains on.

    Args:
        datasets: each with its weight; weights are proportions of rows and need not sum to 1.
        batch_size: rows of the global batch, over all processes.
        max_bad_fraction: more bad examples than this stop the run.
    """

    datasets: dict[str, tuple[float, Dataset]]
    batch_size: int
    max_bad_fraction: float = 0.01

    def __post_init__(self):
        if not self.datasets:
            raise InputError("expected at least one dataset in the mixture, found none")
        for name, (weight, _) in self.datasets.items():
            if not (math.isfinite(weight) and weight > 0):
                raise InputError(
                    f"expected a positive weight of dataset {name!r}, found {weight}. Else remove it."
                )
        if self.batch_size < 1:
            raise InputError(f"expected a batch_size of at least 1, found {self.batch_size}")

    @classmethod
    def of(cls, dataset: Dataset, *, batch_size: int, max_bad_fraction: float = 0.01) -> "Mixture":
        """A mixture of one."""
        return cls({"data": (1.0, dataset)}, batch_size, max_bad_fraction)

    def streams(self) -> dict[str, Stream]:
        """The union of the datasets' streams, each as its empty example: types, shapes, no batch axis.

        Raises:
            InputError: two datasets disagree about the shape of a stream.
        """
        union: dict[str, Stream] = {}
        owner: dict[str, str] = {}
        for dataset_name, (_, dataset) in self.datasets.items():
            for name, blank in dataset.empty().items():
                if name in union and shapes(union[name]) != shapes(blank):
                    raise InputError(
                        f"expected one shape for the stream {name!r}, found {shapes(union[name])} in dataset "
                        f"{owner[name]!r} and {shapes(blank)} in {dataset_name!r}. Give both one "
                        "size, or the streams two names."
                    )
                union.setdefault(name, blank)
                owner.setdefault(name, dataset_name)
        return union

    def vocabularies(self) -> dict[str, str]:
        """{"dataset/stream": digest of its vocabulary}. Raises InputError as opening the tokenizers does."""
        return {
            f"{name}/{stream}": transform.tokenizer.open().digest()
            for name, (_, dataset) in self.datasets.items()
            for stream, transform in dataset.streams.items()
            if isinstance(transform, TextTransform)
        }

    def spec(self, batch_size: int | None = None) -> Batch:
        """The batch's types and shapes as jax.ShapeDtypeStruct. No disk."""
        import jax  # only its shape type is wanted, and only here

        size = self.batch_size if batch_size is None else batch_size
        return {
            name: type(blank)(
                **{
                    field: jax.ShapeDtypeStruct((size, *array.shape), array.dtype)
                    for field, array in arrays(blank).items()
                }
            )
            for name, blank in self.streams().items()
        }

    def assign(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which dataset each global row is of, and how many rows that dataset has had before.

        Rows count from the start of training, ``step * batch_size + row``. The datasets take turns as evenly
        as their weights allow: of the first n rows, for any n, each has had its share, give or take a row or
        two. A pure function, so that no state has to be saved.

        Args:
            rows: int64 "rows".

        Returns:
            (number of the dataset, place in that dataset's own sequence), both int64 "rows".
        """
        return _assign(tuple(weight for weight, _ in self.datasets.values()), rows)


def _assign(weights: tuple[float, ...], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.asarray(rows, np.int64)
    dataset = np.full(rows.shape, len(weights) - 1, np.int64)
    place = rows.copy()
    undecided = np.ones(rows.shape, bool)
    # One dataset against all that follow it, then the next among the rest: row g belongs to the first exactly
    # where floor(g * share) is about to grow, and floor(g * share) is how many it has had.
    for number, share in enumerate(_shares(weights)):
        had = _count(place, share)
        takes = undecided & (_count(place + 1, share) > had)
        dataset[takes] = number
        place = np.where(takes, had, np.where(undecided, place - had, place))
        undecided &= ~takes
    return dataset, place


@functools.lru_cache(maxsize=64)
def _shares(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Each but the last dataset's share of the rows that those before it left, in parts."""
    return tuple(round(weight / sum(weights[number:]) * _PARTS) for number, weight in enumerate(weights[:-1]))


def _count(rows: np.ndarray, share: int) -> np.ndarray:
    """floor(rows * share / _PARTS) without overflow: exact up to 2**60 rows."""
    return (rows // _PARTS) * share + (rows % _PARTS) * share // _PARTS


def arrays(stream: Any) -> Mapping[str, Any]:
    """The fields of a stream, by name, without those that only views fill."""
    fields = {field.name: getattr(stream, field.name) for field in dataclasses.fields(stream)}
    return {name: array for name, array in fields.items() if array is not None}


def shapes(stream: Stream) -> str:
    """Type and shapes, to compare and to print."""
    inside = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays(stream).items())
    return f"{type(stream).__name__}({inside})"
