"""An embedding in the shared space by attention of a learned query."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.heads.base import Head
from mmjax.heads.embedding import unit_length
from mmjax.layers import LayerNorm, Mlp, MultiHeadAttention
from mmjax.ranges import Activation, Positive, Size
from mmjax.sharding import param_axes


class AttentionPooledEmbedding(Head):
    """A learned query attends to the stream, then passes an MLP; scaled to unit length (SigLIP's images).

    `y + Mlp(norm(y))` with `y = Attention(query, stream)`: the head "MAP" of Zhai et al. 2022 (Scaling Vision
    Transformers, section 2.3).

    dim: of the embedding; the stream must have this width.
    num_heads, mlp_width, activation, epsilon: of its attention, MLP and norm.
    """

    dim: Size
    num_heads: Size
    mlp_width: Size
    activation: Activation = "gelu_tanh"
    epsilon: Positive = 1e-6

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B D"]:
        x = encoded.embeddings
        if x.shape[-1] != self.dim:
            raise InputError(
                f"AttentionPooledEmbedding expects a stream of width dim={self.dim}, and {self.stream!r} has "
                f"{x.shape[-1]}"
            )
        dtype = x.dtype.name
        query = self.param("query", param_axes(nn.initializers.normal(0.02), None, "embed"), (1, x.shape[-1]))
        query = jnp.broadcast_to(query.astype(x.dtype), (x.shape[0], *query.shape))
        y = MultiHeadAttention(self.num_heads, dtype=dtype, name="attention")(query, x, encoded.mask)
        normalised = LayerNorm(self.epsilon, dtype=dtype, name="norm")(y)
        y = y + Mlp(self.mlp_width, self.activation, dtype=dtype, name="mlp")(normalised)
        return unit_length(y[:, 0].astype(jnp.float32))
