"""A fixed number of latents that summarise the modalities."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.batch import Encoded
from mmjax.fusion import ops
from mmjax.fusion.base import SingleResultFusion
from mmjax.layers import Block, LayerNorm, Mlp, MultiHeadAttention
from mmjax.ranges import Decay, Depth, Dtype, Size
from mmjax.sharding import param_axes, shard


class Resampler(SingleResultFusion):
    """Perceiver resampler, and gated cross-attention to it (Alayrac et al. 2022, Flamingo, section 3.1).

    In each of `depth` layers, the learned latents attend to the concatenation of the streams and themselves,
    then pass through an MLP.

    updated_stream: reads the latents of the other streams in `cross_attention_depth` layers, each a gated
      cross-attention `y + tanh(a) attention`, a gated MLP and a block; a is initialised to zero. None: the
      latents of all streams are the result.
    """

    depth: Depth
    width: Size
    num_heads: Size
    mlp_width: Size
    num_latents: Size = 8
    cross_attention_depth: Depth = 1
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        streams = ops.add_modality_embedding(self, ops.select_streams(self, encoded), self.width, self.dtype)
        others = [value for stream, value in streams.items() if stream != self.updated_stream]
        latents = ops.learned_tokens(self, "latents", self.num_latents, streams[self.streams[0]])
        for layer in range(self.depth):
            latents = self.resample(layer, latents, others, train)
        latents = latents.replace(embeddings=self.norm("latents_norm", latents.embeddings))
        if self.updated_stream is None:
            latents = latents.replace(mask=ops.any_present(streams, self.num_latents))
            return encoded | {self.new_stream: latents}
        x, mask = streams[self.updated_stream].embeddings, streams[self.updated_stream].mask
        for layer in range(self.cross_attention_depth):
            x = self.read_latents(layer, x, latents, train)
            x = Block(
                num_heads=self.num_heads, mlp_width=self.mlp_width, dropout=self.dropout, dtype=self.dtype,
                name=f"reader_{layer}_block",
            )(x, mask, train)  # fmt: skip
        return encoded | {self.updated_stream: Encoded(self.norm(f"{self.updated_stream}_norm", x), mask)}

    def resample(self, layer: int, latents: Encoded, others: list[Encoded], train: bool) -> Encoded:
        """One layer of the latents."""
        query = latents.replace(embeddings=self.norm(f"latents_{layer}_query_norm", latents.embeddings))
        context = [query]
        if others:
            joined = ops.concat_streams(others)
            joined = joined.replace(embeddings=self.norm(f"latents_{layer}_context_norm", joined.embeddings))
            context = [joined, query]
        keys = ops.concat_streams(context)
        x = latents.embeddings + self.drop(
            self.attention(f"latents_{layer}_cross")(query.embeddings, keys.embeddings, keys.mask), train
        )
        x = shard(x, "act_batch", "act_length", "act_embed")
        x = ops.mlp_residual(
            f"latents_{layer}", x, train, mlp_width=self.mlp_width, dropout=self.dropout, dtype=self.dtype
        )
        return latents.replace(embeddings=x)

    def read_latents(
        self, layer: int, x: Float[jax.Array, "B L D"], latents: Encoded, train: bool
    ) -> Float[jax.Array, "B L D"]:
        """Gated cross-attention of the updated stream to the latents, and a gated MLP."""
        y = self.attention(f"reader_{layer}_cross")(
            self.norm(f"reader_{layer}_query_norm", x), latents.embeddings, latents.mask
        )
        x = x + self.gate(f"reader_{layer}_cross_gate", x) * self.drop(y, train)
        y = Mlp(self.mlp_width, dtype=self.dtype, name=f"reader_{layer}_mlp")(
            self.norm(f"reader_{layer}_mlp_norm", x)
        )
        x = x + self.gate(f"reader_{layer}_mlp_gate", x) * self.drop(y, train)
        return shard(x, "act_batch", "act_length", "act_embed")

    def norm(self, name: str, x: Float[jax.Array, "B L D"]) -> Float[jax.Array, "B L D"]:
        """LayerNorm."""
        return LayerNorm(dtype=self.dtype, name=name)(x)

    def attention(self, name: str) -> MultiHeadAttention:
        """The cross-attention module `name`."""
        return MultiHeadAttention(num_heads=self.num_heads, dtype=self.dtype, name=name)

    def drop(self, x: Float[jax.Array, "B L D"], train: bool) -> Float[jax.Array, "B L D"]:
        """Dropout."""
        return nn.Dropout(self.dropout, deterministic=not train)(x)

    def gate(self, name: str, like: Float[jax.Array, "B L D"]) -> Float[jax.Array, "1 1 1"]:
        """tanh of a learned scalar, in the dtype of `like`."""
        gate = self.param(name, param_axes(nn.initializers.zeros), ())
        return jnp.tanh(gate).astype(like.dtype).reshape(1, 1, 1)
