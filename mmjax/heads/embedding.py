"""A point in the space where modalities are compared."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.heads.pooling import pool
from mmjax.layers import Einsum


class PooledEmbedding(nn.Module):
    """Pooled, mapped to `dim` and scaled to unit length: float32 ``"B E"`` (CLIP, Radford et al. 2021).

    A causal text tower is pooled at its "last" position, as in CLIP and CoCa.
    """

    stream: str
    dim: int
    pooling: Literal["mean", "first", "last"] = "mean"
    after: Literal["encoder", "fusion"] = "encoder"

    @nn.compact
    def __call__(
        self, encoded: Encoded, table: jax.Array | None = None
    ) -> Float32[jax.Array, "B {self.dim}"]:
        x = pool(encoded, self.pooling)
        x = Einsum(
            "B D, D E -> B E",
            shape=(x.shape[-1], self.dim),
            axes=("embed", "shared"),
            use_bias=False,
            name="linear",
        )(x)
        # The floor keeps the gradient finite for the all-zero vector of a missing example.
        return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))
