"""One vector an example."""

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.layers import mean_pool


def pool(encoded: Encoded, how: str) -> Float32[jax.Array, "B D"]:
    """``"B L D" -> "B D"`` in float32: the "mean" of unmasked positions, the "first", or the "last" unmasked.

    The last of a causal stream is the only one that has read all of it.
    """
    x = encoded.embeddings
    if how == "first":
        return x[:, 0].astype(jnp.float32)
    if how == "last":
        last = jnp.where(encoded.mask, jnp.arange(x.shape[1])[None], 0).max(1)
        return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0].astype(jnp.float32)
    return mean_pool(x, encoded.mask)
