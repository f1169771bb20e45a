"""A point in the space where modalities are compared."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.heads.base import Head
from mmjax.heads.pooling import pool
from mmjax.layers import Einsum


class PooledEmbedding(Head):
    """Pooled, mapped to `dim` and scaled to unit length: float32 ``"B E"`` (CLIP, Radford et al. 2021).

    depth: which state of the stream: None, its last; else an index into `Encoded.lower`, the states at the
      trunk's `taps`. Heads of several depths, an objective each, align streams at several layers.
    use_bias: a constant beside the linear map, where features are not centred (`mmjax.evals.cca`).

    A causal text tower is pooled at its "last" position, as in CLIP and CoCa.
    """

    dim: int
    pooling: Literal["mean", "first", "last"] = "mean"
    depth: int | None = None
    use_bias: bool = False

    @nn.compact
    def __call__(
        self, encoded: Encoded, table: jax.Array | None = None
    ) -> Float32[jax.Array, "B {self.dim}"]:
        if self.depth is not None:
            if not 0 <= self.depth < len(encoded.hidden_states):
                raise InputError(
                    f"PooledEmbedding with depth={self.depth} reads the stream {self.stream!r}, which comes "
                    f"with {len(encoded.hidden_states)} lower states: give its encoder's trunk more `taps`, or name "
                    "one of those, counted from 0"
                )
            encoded = encoded.replace(embeddings=encoded.hidden_states[self.depth])
        x = pool(encoded, self.pooling)
        x = Einsum(
            "B D, D E -> B E",
            shape=(x.shape[-1], self.dim),
            axes=("embed", "shared"),
            use_bias=self.use_bias,
            name="linear",
        )(x)
        # The floor keeps the gradient finite for the all-zero vector of a missing example.
        return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))
