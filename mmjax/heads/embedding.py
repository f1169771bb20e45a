"""An embedding in the space that modalities share."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.heads.base import Head
from mmjax.heads.pooling import pool
from mmjax.layers import Einsum, LayerNorm
from mmjax.ranges import Positive, Size, Whole


class PooledEmbedding(Head):
    """The pooled stream, projected to `dim` and scaled to unit length (CLIP, Radford et al. 2021).

    pooling: "last" for a causal text encoder, as in CLIP and CoCa.
    hidden_state: an index into `Encoded.hidden_states`, the states at the trunk's `taps`, which is read in
      place of the stream's last state. Heads of several states, with an objective each, align streams at
      several layers.
    norm_epsilon: of a layer norm of the pooled vector before the projection; None: no norm.
    use_bias: for features that are not centred (`mmjax.evals.cca`).
    """

    dim: Size
    pooling: Literal["mean", "first", "last"] = "mean"
    hidden_state: Whole | None = None
    use_bias: bool = False
    norm_epsilon: Positive | None = None

    @nn.compact
    def __call__(
        self, encoded: Encoded, table: jax.Array | None = None
    ) -> Float32[jax.Array, "B {self.dim}"]:
        if self.hidden_state is not None:
            num_states = len(encoded.hidden_states)
            if not 0 <= self.hidden_state < num_states:
                raise InputError(
                    f"PooledEmbedding reads hidden_state={self.hidden_state} of the stream {self.stream!r}, "
                    f"which has {num_states} hidden states: give its encoder's trunk more `taps`, or use "
                    "an index below that number"
                )
            encoded = encoded.replace(embeddings=encoded.hidden_states[self.hidden_state])
        x = pool(encoded, self.pooling)
        if self.norm_epsilon is not None:
            x = LayerNorm(self.norm_epsilon, name="norm")(x)
        x = Einsum(
            "B D, D E -> B E", shape=(x.shape[-1], self.dim), axes=("embed", "shared"),
            use_bias=self.use_bias, name="linear",
        )(x)  # fmt: skip
        return unit_length(x)


def unit_length(x: Float32[jax.Array, "B E"]) -> Float32[jax.Array, "B E"]:
    """x / |x|. A lower bound keeps the gradient finite for the all-zero vector of a missing example."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))
