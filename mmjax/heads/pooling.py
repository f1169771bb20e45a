"""Pooling of a stream to one vector per example."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.layers import mean_pool


def pool(encoded: Encoded, pooling: Literal["mean", "first", "last"]) -> Float32[jax.Array, "B D"]:
    """The mean of the unmasked positions, the first position, or the last unmasked position.

    In a causal stream only the last position has read all others.
    """
    x = encoded.embeddings
    if pooling == "first":
        return x[:, 0].astype(jnp.float32)
    if pooling == "last":
        last = jnp.where(encoded.mask, jnp.arange(x.shape[1])[None], 0).max(1)
        return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0].astype(jnp.float32)
    return mean_pool(x, encoded.mask)
