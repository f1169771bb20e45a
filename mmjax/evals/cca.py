"""Closed-form alignment of two modalities: a baseline without training, or initial weights for training.

Features "N D" of N paired examples are raw inputs or the pooled outputs of two encoders.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearMap:
    """Maps features to a shared space: `(features - mean) @ kernel`."""

    mean: np.ndarray  # float64 "D"
    kernel: np.ndarray  # float64 "D E"

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Maps "N D" to "N E"."""
        return (np.asarray(features, np.float64) - self.mean) @ self.kernel


def pca(features: np.ndarray, dim: int) -> tuple[LinearMap, np.ndarray]:
    """A map to the `dim` orthonormal directions of greatest variance, and these variances, falling.

    Pearson 1901; Hotelling 1933. The maps of two modalities do not share a space.
    """
    centred, mean = _centre(features, dim)
    _, singular_values, directions = np.linalg.svd(centred, full_matrices=False)
    return LinearMap(mean=mean, kernel=directions[:dim].T), singular_values[:dim] ** 2 / (len(centred) - 1)


def cca(
    first: np.ndarray, second: np.ndarray, dim: int, regularise: float = 1e-3
) -> tuple[LinearMap, LinearMap, np.ndarray]:
    """Canonical correlation analysis (Hotelling 1936), by the SVD of the whitened cross-covariance.

    Returns two maps, whose outputs have unit variance and are uncorrelated within a side, and the outputs'
    correlations, falling. `regularise` adds this fraction of a side's mean variance to all its directions
    (canonical ridge, Vinod 1976): with fewer examples than features, 0 finds spurious correlations of 1. The
    ridge makes the correlations slightly too small.
    """
    _check_paired(first, second)
    (x, mean_x), (y, mean_y) = _centre(first, dim), _centre(second, dim)
    white_x, white_y = _whitener(x, regularise), _whitener(y, regularise)
    cross = white_x.T @ (x.T @ y / (len(x) - 1)) @ white_y
    left, correlations, right = np.linalg.svd(cross, full_matrices=False)
    return (
        LinearMap(mean=mean_x, kernel=white_x @ left[:, :dim]),
        LinearMap(mean=mean_y, kernel=white_y @ right[:dim].T),
        correlations[:dim],
    )


def initialise_heads(params: Mapping[str, Any], maps: Mapping[str, LinearMap]) -> dict[str, Any]:
    """Returns the Learner's parameters with the maps as kernels of its `PooledEmbedding` heads.

    maps: {head: map}. Only a head with `use_bias=True` subtracts the map's mean.
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


def _centre(features: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"expected features of at least 2 examples, 'N D', found the shape {x.shape}")
    if not 1 <= dim <= x.shape[1]:
        raise InputError(f"dim expects 1 to {x.shape[1]}, the number of features, found {dim}")
    mean = x.mean(0)
    return x - mean[None], mean


def _check_paired(first: np.ndarray, second: np.ndarray) -> None:
    if len(first) != len(second):
        raise InputError(f"expected pairs, found {len(first)} and {len(second)} rows")


def _whitener(centred: np.ndarray, regularise: float) -> np.ndarray:
    """The inverse square root of the covariance, "D D"."""
    covariance = centred.T @ centred / (len(centred) - 1)
    covariance += regularise * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    variances, directions = np.linalg.eigh(covariance)
    # Directions without variance are set to zero instead of dividing by rounding errors.
    varies = variances > variances.max() * 1e-12
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, variances, 1.0)), 0.0)
    return directions * scale[None] @ directions.T
