"""Closed-form alignment of two modalities: baselines without training, and a start for training.

Features are rows of paired examples: ``"N D"`` of one modality and ``"N E"`` of the other, or vectors that
two encoders pool.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearMap:
    """Features to a shared space: ``(features - mean) @ kernel``."""

    mean: np.ndarray  # float64 "D"
    kernel: np.ndarray  # float64 "D E"

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """``"N D" -> "N E"``."""
        return (np.asarray(features, np.float64) - self.mean) @ self.kernel


def pca(features: np.ndarray, dim: int) -> tuple[LinearMap, np.ndarray]:
    """The `dim` directions of greatest variance, orthonormal, and the variances along them, falling.

    Pearson 1901; Hotelling 1933. Of one modality: two such maps share no space.
    """
    centred, mean = _centred(features, dim)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    return LinearMap(mean=mean, kernel=directions[:dim].T), singular[:dim] ** 2 / (len(centred) - 1)


def joint_pca(first: np.ndarray, second: np.ndarray, dim: int) -> tuple[LinearMap, LinearMap, np.ndarray]:
    """PCA of both modalities side by side, each scaled to a total variance of one.

    A direction of the two spaces together is a direction in each, so that each alone has a map to the same
    space; they agree where a direction's variance is shared. Variances of the directions come third.
    """
    sides = []
    for features in (first, second):
        centred, mean = _centred(features, 1)
        scale = np.sqrt(max(np.square(centred).sum() / (len(centred) - 1), np.finfo(float).tiny))
        sides.append((centred / scale, mean, scale))
    _paired(first, second)
    both, variances = pca(np.concatenate([centred for centred, _, _ in sides], axis=1), dim)
    width = np.shape(first)[1]
    kernels = both.kernel[:width], both.kernel[width:]
    maps = [LinearMap(mean=m, kernel=k / s) for k, (_, m, s) in zip(kernels, sides, strict=True)]
    return maps[0], maps[1], variances


def cca(
    first: np.ndarray, second: np.ndarray, dim: int, regularise: float = 1e-3
) -> tuple[LinearMap, LinearMap, np.ndarray]:
    """Canonical correlation analysis (Hotelling 1936): maps whose outputs correlate most, and how much.

    Each output has unit variance and is uncorrelated with the others of its side. By the singular values of
    the cross-covariance between whitened sides. `regularise` adds that share of a side's mean variance to all
    of its directions (canonical ridge, Vinod 1976): with fewer examples than features, 0 finds correlations
    of one that are not there. The correlations are then those of the ridge, a little too small.
    """
    _paired(first, second)
    (x, mean_x), (y, mean_y) = _centred(first, dim), _centred(second, dim)
    white_x, white_y = _whitener(x, regularise), _whitener(y, regularise)
    cross = white_x.T @ (x.T @ y / (len(x) - 1)) @ white_y
    left, correlations, right = np.linalg.svd(cross, full_matrices=False)
    return (
        LinearMap(mean=mean_x, kernel=white_x @ left[:, :dim]),
        LinearMap(mean=mean_y, kernel=white_y @ right[:dim].T),
        correlations[:dim],
    )


def start_from(params: Mapping[str, Any], maps: Mapping[str, LinearMap]) -> dict[str, Any]:
    """The Learner's parameters, with these maps as the linear layers of its `PooledEmbedding` heads.

    maps: {head: map, such as `cca` gives}; a head with `use_bias=True` takes the mean as well, which
    otherwise stays in the features. Nothing is changed in place.
    """
    model = dict(params["model"])
    for head, linear_map in maps.items():
        name = f"heads_{head}"
        heads = sorted(key.removeprefix("heads_") for key in model if key.startswith("heads_"))
        if name not in model or "linear" not in model[name]:
            raise InputError(
                f"expected the name of a PooledEmbedding head, found {head!r}; heads with parameters: {heads}"
            )
        linear = dict(model[name]["linear"])
        if linear["kernel"].shape != linear_map.kernel.shape:
            raise InputError(
                f"the head {head!r} expects a map of shape {linear['kernel'].shape}, found "
                f"{linear_map.kernel.shape}: take the features that the head reads, and its dim"
            )
        linear["kernel"] = linear_map.kernel.astype(linear["kernel"].dtype)
        if "bias" in linear:
            linear["bias"] = (-linear_map.mean @ linear_map.kernel).astype(linear["bias"].dtype)
        model[name] = {**model[name], "linear": linear}
    return {**params, "model": model}


def _centred(features: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"expected features of at least 2 examples, 'N D', found the shape {x.shape}")
    if not 1 <= dim <= x.shape[1]:
        raise InputError(f"dim expects 1 to {x.shape[1]}, the number of features, found {dim}")
    mean = x.mean(0)
    return x - mean[None], mean


def _paired(first: np.ndarray, second: np.ndarray) -> None:
    if len(first) != len(second):
        raise InputError(f"expected pairs, found {len(first)} and {len(second)} rows")


def _whitener(centred: np.ndarray, regularise: float) -> np.ndarray:
    """The inverse square root of the covariance: ``"D D"``."""
    covariance = centred.T @ centred / (len(centred) - 1)
    covariance += regularise * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    variances, directions = np.linalg.eigh(covariance)
    # Directions in which nothing varies say nothing: zero, rather than one over rounding.
    there = variances > variances.max() * 1e-12
    scale = np.where(there, 1 / np.sqrt(np.where(there, variances, 1.0)), 0.0)
    return directions * scale[None] @ directions.T
