"""Scores that need no learning, printed beside the learned ones: raw neighbours, CCA, majority."""

import dataclasses
from typing import Any

import numpy as np

from mmjax import data
from mmjax.batch import Audio, Image, Patches, Stream, Text, Video
from mmjax.errors import InputError
from mmjax.evals import cca, features
from mmjax.evals.base import has_streams
from mmjax.evals.cards import decode_texts


def raw_features(stream: Stream, transform: Any) -> np.ndarray:
    """Raw features of a batch's stream, float32 "B F"; zeros where it is missing."""
    kept = has_streams({"": stream}, "")
    match stream:
        case Text():
            rows = [features.ngrams(text) for text in decode_texts(stream, transform)]
        case Image(pixels=pixels):
            rows = [features.picture(row) for row in np.asarray(pixels)]
        case Patches() | Video():
            images, _ = transform.to_images(stream)
            rows = [features.picture(row) for row in images.pixels]
        case Audio():
            rows = [features.sound(mel) for mel in features.clips(stream, transform.sample_rate_hz)]
        case _:
            raise TypeError(f"expected a Text, Image, Patches, Video or Audio, found {type(stream).__name__}")
    return np.stack(rows) * kept[:, None]


@dataclasses.dataclass(frozen=True)
class RawFeatureSpace:
    """Raw features of the training data, centred and of length one: dot products are cosines."""

    mean: np.ndarray  # float32 "F"
    units: np.ndarray  # float32 "T F"
    present: np.ndarray  # bool "T"

    @classmethod
    def of(cls, rows: np.ndarray, present: np.ndarray) -> "RawFeatureSpace":
        mean = _unit(rows[present]).mean(axis=0)
        return cls(mean, _unit(_unit(rows) - mean) * present[:, None], present)

    def place(self, rows: np.ndarray) -> np.ndarray:
        """Rows of other data in the same space."""
        return _unit(_unit(rows) - self.mean)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def fit_raw_spaces(
    dataset: data.Dataset, streams: tuple[str, ...], *, batch_size: int, limit: int | None
) -> dict[str, RawFeatureSpace]:
    """The raw features of these streams of a (training) dataset, in order and without augmentation."""
    rows, present = {stream: [] for stream in streams}, {stream: [] for stream in streams}
    for batch in data.epoch(dataset, batch_size, limit):
        for stream in streams:
            rows[stream].append(raw_features(batch[stream], dataset.streams[stream]))
            present[stream].append(has_streams(batch, stream))
    absent = [stream for stream in streams if not np.concatenate(present[stream]).any()]
    if absent:
        raise InputError(
            f"baseline: no training example has {absent}: give `train` a dataset that does, or None"
        )
    return {
        stream: RawFeatureSpace.of(np.concatenate(rows[stream]), np.concatenate(present[stream]))
        for stream in streams
    }


def transfer_from_neighbours(
    query: RawFeatureSpace, target: RawFeatureSpace, rows: np.ndarray, num_neighbours: int = 5
) -> np.ndarray:
    """What raw neighbours suggest: float32 "N F_target", to be compared in the target's space.

    Each of the N raw query ``rows`` finds its nearest training examples in the query's own modality (the most
    alike pictures); their other modality (these pictures' names), weighted by similarity, is the guess.
    """
    known = np.flatnonzero(query.present & target.present)
    if not len(known):
        raise InputError(
            "transfer baseline: no training example has both streams: give another `train`, or None"
        )
    guesses = np.empty((len(rows), target.units.shape[1]), np.float32)
    for start in range(0, len(rows), 256):
        similarities = query.place(rows[start : start + 256]) @ query.units[known].T
        nearest = np.argsort(-similarities, axis=1)[:, :num_neighbours]
        weights = np.maximum(np.take_along_axis(similarities, nearest, axis=1), 1e-6)
        guesses[start : start + 256] = np.einsum("nk,nkf->nf", weights, target.units[known[nearest]])
    return guesses


@dataclasses.dataclass(frozen=True)
class CCABaseline:
    """Raw features of two modalities in the space of their canonical correlations (Hotelling 1936)."""

    query: tuple[cca.LinearMap, cca.LinearMap]  # principal components, then the canonical directions
    target: tuple[cca.LinearMap, cca.LinearMap]
    correlations: np.ndarray  # float64 "E", falling

    @classmethod
    def of(
        cls,
        query: RawFeatureSpace,
        target: RawFeatureSpace,
        dim: int = 64,
        components: int = 200,
        limit: int = 2000,
    ) -> "CCABaseline | None":
        """From the first `limit` training examples that have both; None where they are too few.

        Of each modality only the first `components`: a few thousand examples tell no more directions apart,
        and correlate by chance in all that they cannot tell apart.
        """
        known = np.flatnonzero(query.present & target.present)[:limit]
        if len(known) < 3:
            return None
        sides = [space.units[known] for space in (query, target)]
        reduced = [cca.pca(x, min(components, x.shape[1], len(known) - 1))[0] for x in sides]
        x, y = (to_components(side) for to_components, side in zip(reduced, sides, strict=True))
        one, two, correlations = cca.cca(x, y, min(dim, x.shape[1], y.shape[1]), regularise=0.1)
        return cls((reduced[0], one), (reduced[1], two), correlations)

    def places(self, side: str, units: np.ndarray) -> np.ndarray:
        """Rows of a `RawFeatureSpace`, "query" or "target", as unit vectors: float32 "N E"."""
        first, second = getattr(self, side)
        return _unit(second(first(units)) * self.correlations).astype(np.float32)


def nearest_neighbour_labels(space: RawFeatureSpace, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Class of the nearest training example in raw features: int "N". ``labels`` "T", -1 where unknown."""
    known = np.flatnonzero(space.present & (labels >= 0))
    chunks = [
        space.place(rows[start : start + 256]) @ space.units[known].T for start in range(0, len(rows), 256)
    ]
    return np.concatenate([labels[known[similarities.argmax(axis=1)]] for similarities in chunks])


def majority(values: np.ndarray) -> float:
    """Accuracy of always giving the most common answer."""
    return float(np.unique(values, return_counts=True)[1].max() / len(values))
