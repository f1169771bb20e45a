"""Means over the rows of a batch, and means of those over several batches."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float32

from mmjax.batch import Array

TINY = 1e-30  # a perplexity is at least 1; this is for values that do not count
WEIGHT = "weight_of/"  # precedes the name of a metric in the name of its weight


@struct.dataclass
class Mean:
    """A loss or metric of one batch, and how much the batch counts in the mean over several batches.

    A batch without a row for an objective has weight 0: its value is 0, and not a measurement.
    """

    value: Array  # float scalar
    weight: Array  # float32 scalar: the number of rows, tokens, patches or values that the mean is over


def count(mask: Bool[Array, "..."]) -> Float32[Array, ""]:
    """The number of True values, over all devices, as a weight."""
    return mask.sum().astype(jnp.float32)


def with_weights(values: Mapping[str, Any]) -> dict[str, Array]:
    """{metric: scalar}, and {WEIGHT + metric: weight} of those that are a Mean."""
    metrics: dict[str, Array] = {}
    for name, value in values.items():
        if isinstance(value, Mean):
            metrics |= {name: value.value, f"{WEIGHT}{name}": value.weight}
        else:
            metrics[name] = value
    return metrics


def without_weights(metrics: Mapping[str, Any]) -> list[str]:
    """The names of the metrics, without those of their weights."""
    return [name for name in metrics if not name.startswith(WEIGHT)]


def mean_over_batches(
    batches: Sequence[Mapping[str, Any]], default_weights: Sequence[float] | None = None
) -> dict[str, float]:
    """The mean of each metric over batches, {metric: value}, by the weights that `with_weights` added.

    A metric whose weights are all 0 is left out: nothing was measured. A "perplexity" is the exponential of a
    mean, so that the mean is taken of its logarithm.

    Args:
      batches: {metric: scalar} of each batch, on the host.
      default_weights: of the batches, for metrics without weights; None: equal ones.
    """
    means = {}
    for name in without_weights(batches[0]):
        values = np.asarray([batch[name] for batch in batches])
        is_exponential = name.rpartition("/")[2] == "perplexity"
        values = np.log(np.maximum(values, TINY)) if is_exponential else values
        if f"{WEIGHT}{name}" in batches[0]:
            weights = np.asarray([batch[f"{WEIGHT}{name}"] for batch in batches], np.float64)
        else:
            weights = np.ones(len(batches)) if default_weights is None else np.asarray(default_weights)
        if not (weights > 0).any():
            continue
        if (weights == weights[0]).all():
            mean = float(values.mean())
        else:
            mean = float(np.where(weights > 0, values * weights, 0.0).sum() / weights.sum())
        means[name] = math.exp(mean) if is_exponential else mean
    return means
