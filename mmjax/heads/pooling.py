"""One vector an example."""

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.layers import mean_pool


def pool(encoded: Encoded, how: str) -> Float32[jax.Array, "B D"]:
    """``"B L D" -> "B D"`` in float32: the "mean" of unmasked positions, or the "first" position."""
    if how == "first":
        return encoded.embeddings[:, 0].astype(jnp.float32)
    return mean_pool(encoded.embeddings, encoded.mask)
