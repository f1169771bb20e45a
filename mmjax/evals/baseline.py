"""Baselines without training that are reported beside the model's scores: raw neighbours, CCA, majority."""

import collections
import dataclasses
from typing import Any, TypeVar

import numpy as np

from mmjax import data
from mmjax.batch import Audio, Image, Patches, Stream, Text, Video
from mmjax.errors import InputError
from mmjax.evals import cca, features
from mmjax.evals.base import has_streams
from mmjax.evals.previews import decode_texts

Key = TypeVar("Key")


def raw_features(stream: Stream, transform: Any) -> np.ndarray:
    """Features of a batch's raw inputs, float32 "B F" (features.py). Rows without the stream are zero."""
    present = has_streams({"": stream}, "")
    match stream:
        case Text():
            rows = [features.text_features(text) for text in decode_texts(stream, transform)]
        case Image(pixels=pixels):
            rows = [features.image_features(row) for row in np.asarray(pixels)]
        case Patches() | Video():
            images, _ = transform.to_images(stream)
            rows = [features.image_features(row) for row in images.pixels]
        case Audio():
            log_mels = features.log_mels_by_row(stream, transform.sample_rate_hz)
            rows = [features.audio_features(log_mel) for log_mel in log_mels]
        case _:
            raise TypeError(f"expected a Text, Image, Patches, Video or Audio, found {type(stream).__name__}")
    return np.stack(rows) * present[:, None]


@dataclasses.dataclass(frozen=True)
class RawFeatureSpace:
    """Raw features of the training data, centred and scaled to unit length: dot products are cosines.

    mean: of the unit-length raw features.
    vectors: a row per training example; zero where it has no such stream.
    """

    mean: np.ndarray  # float32 "F"
    vectors: np.ndarray  # float32 "T F"
    present: np.ndarray  # bool "T"

    @classmethod
    def fit(cls, rows: np.ndarray, present: np.ndarray) -> "RawFeatureSpace":
        """From raw features "T F" of training examples and whether each has the stream, "T"."""
        mean = _unit(rows[present]).mean(axis=0)
        return cls(mean, _unit(_unit(rows) - mean) * present[:, None], present)

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Raw features "N F" of other data as unit vectors of this space, "N F"."""
        return _unit(_unit(rows) - self.mean)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def fit_raw_spaces(
    train: data.Dataset, streams: tuple[str, ...], *, batch_size: int, limit: int | None,
    max_bad_fraction: float | None = None,
) -> dict[str, RawFeatureSpace]:  # fmt: skip
    """{stream: RawFeatureSpace} of the training data, in order and without augmentation."""
    limits = {} if max_bad_fraction is None else {"max_bad_fraction": max_bad_fraction}
    rows, present = {stream: [] for stream in streams}, {stream: [] for stream in streams}
    for batch in data.epoch(train, batch_size, limit, **limits):
        for stream in streams:
            rows[stream].append(raw_features(batch[stream], train.streams[stream]))
            present[stream].append(has_streams(batch, stream))
    absent = [stream for stream in streams if not np.concatenate(present[stream]).any()]
    if absent:
        raise InputError(
            f"baseline: no training example has {absent}: give `train` a dataset that does, or None"
        )
    return {
        stream: RawFeatureSpace.fit(np.concatenate(rows[stream]), np.concatenate(present[stream]))
        for stream in streams
    }


def transfer_from_neighbours(
    query: RawFeatureSpace, target: RawFeatureSpace, rows: np.ndarray, num_neighbours: int = 5
) -> np.ndarray:
    """Predicts targets, float32 "N F_target", from raw features `rows` of queries, "N F_query".

    A prediction is the sum of the nearest training queries' targets, weighted by similarity.
    """
    train_rows = np.flatnonzero(query.present & target.present)
    if not len(train_rows):
        raise InputError(
            "transfer baseline: no training example has both streams: give another `train`, or None"
        )
    predicted = np.empty((len(rows), target.vectors.shape[1]), np.float32)
    for start in range(0, len(rows), 256):
        similarities = query.project(rows[start : start + 256]) @ query.vectors[train_rows].T
        nearest = np.argsort(-similarities, axis=1)[:, :num_neighbours]
        weights = np.maximum(np.take_along_axis(similarities, nearest, axis=1), 1e-6)
        neighbours = target.vectors[train_rows[nearest]]
        predicted[start : start + 256] = np.einsum("nk,nkf->nf", weights, neighbours)
    return predicted


@dataclasses.dataclass(frozen=True)
class CCABaseline:
    """Raw features of two streams in the space of their canonical correlations (Hotelling 1936).

    query, target: each a PCA map and, after it, a CCA map.
    """

    query: tuple[cca.LinearMap, cca.LinearMap]
    target: tuple[cca.LinearMap, cca.LinearMap]
    correlations: np.ndarray  # float64 "E", falling

    @classmethod
    def fit(
        cls, query: RawFeatureSpace, target: RawFeatureSpace, dim: int = 64, components: int = 200,
        limit: int = 2000,
    ) -> "CCABaseline | None":  # fmt: skip
        """From the first `limit` training examples that have both streams; None if these are fewer than 3.

        PCA first keeps `components` directions of each stream: a few thousand examples do not determine more,
        and CCA would find chance correlations in the others.
        """
        train_rows = np.flatnonzero(query.present & target.present)[:limit]
        if len(train_rows) < 3:
            return None
        sides = [space.vectors[train_rows] for space in (query, target)]
        to_components = [cca.pca(x, min(components, x.shape[1], len(train_rows) - 1))[0] for x in sides]
        x, y = (pca(side) for pca, side in zip(to_components, sides, strict=True))
        cca_x, cca_y, correlations = cca.cca(x, y, min(dim, x.shape[1], y.shape[1]), regularise=0.1)
        return cls((to_components[0], cca_x), (to_components[1], cca_y), correlations)

    def project(self, maps: tuple[cca.LinearMap, cca.LinearMap], vectors: np.ndarray) -> np.ndarray:
        """Applies `maps` (`query` or `target`) to vectors "N F" of its space: unit vectors, float32 "N E"."""
        to_components, to_shared = maps
        return _unit(to_shared(to_components(vectors)) * self.correlations).astype(np.float32)


def nearest_neighbour_labels(space: RawFeatureSpace, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The class of the training example that is nearest to each of the raw features `rows` "N F": int "N".

    labels: classes of the training examples, int "T"; -1 where unknown.
    """
    train_rows = np.flatnonzero(space.present & (labels >= 0))
    chunks = [
        space.project(rows[start : start + 256]) @ space.vectors[train_rows].T
        for start in range(0, len(rows), 256)
    ]
    return np.concatenate([labels[train_rows[similarities.argmax(axis=1)]] for similarities in chunks])


def majority_accuracy(labels: np.ndarray, train_labels: np.ndarray | None = None) -> float:
    """Accuracy on `labels` "N" of the most common of `train_labels` "T", or of `labels` without them."""
    values, counts = np.unique(labels if train_labels is None else train_labels, return_counts=True)
    return float((labels == values[counts.argmax()]).mean())


def most_common(counts: collections.Counter[Key]) -> Key:
    """The most common key; the smallest of several, so that the order of the data has no influence."""
    return min(counts, key=lambda key: (-counts[key], key))
