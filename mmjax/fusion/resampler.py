"""All modalities in a fixed number of vectors."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.batch import Encoded
from mmjax.fusion.base import Fusion
from mmjax.fusion.join import (
    add_modality_embedding,
    any_present,
    check_names,
    concat_streams,
    learned_tokens,
    mlp_residual,
    select_streams,
)
from mmjax.layers import Block, LayerNorm, Mlp, MultiHeadAttention
from mmjax.sharding import param_axes, shard


class Resampler(Fusion):
    """Perceiver resampler, and gated cross-attention to it (Alayrac et al. 2022, Flamingo, section 3.1).

    In each of `depth` layers, `num_latents` learned vectors attend to the streams and to themselves, keys
    and values laid end to end, then go through an MLP.

    reader: a stream that reads the latents of all the others, in `reader_depth` layers of gated
      cross-attention ``y + tanh(a) attention``, a gated MLP, and a block of its own; a starts at zero. The
      result replaces it. None: the latents of all streams are a new stream `into`.
    """

    depth: int
    width: int
    num_heads: int
    mlp_width: int
    num_latents: int = 8
    reader: str | None = None
    reader_depth: int = 1
    into: str = "fused"
    dropout: float = 0.0
    dtype: str = "float32"

    def made_streams(self) -> tuple[str, ...]:
        return () if self.reader else (self.into,)

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        check_names(self, self.streams, {"reader": (self.reader,)}, None if self.reader else self.into)
        streams = add_modality_embedding(
            self, select_streams(self, self.streams, encoded), self.width, self.dtype
        )
        others = [value for stream, value in streams.items() if stream != self.reader]
        latents = learned_tokens(self, "latents", self.num_latents, streams[self.streams[0]])
        for layer in range(self.depth):
            latents = self.resample(layer, latents, others, train)
        norm = LayerNorm(dtype=self.dtype, name="latents_norm")
        latents = latents.replace(embeddings=norm(latents.embeddings))
        if self.reader is None:
            return encoded | {self.into: latents.replace(mask=any_present(streams, self.num_latents))}
        x, mask = streams[self.reader].embeddings, streams[self.reader].mask
        for layer in range(self.reader_depth):
            x = self.read_latents(layer, x, latents, train)
            x = Block(
                num_heads=self.num_heads, mlp_width=self.mlp_width, dropout=self.dropout, dtype=self.dtype,
                name=f"reader_{layer}_block",
            )(x, mask, train)  # fmt: skip
        x = LayerNorm(dtype=self.dtype, name=f"{self.reader}_norm")(x)
        return encoded | {self.reader: Encoded(x, mask)}

    def resample(self, layer: int, latents: Encoded, others: list[Encoded], train: bool) -> Encoded:
        """One layer of the latents."""
        own = latents.replace(embeddings=self.norm(f"latents_{layer}_query_norm", latents.embeddings))
        context = [latents.replace(embeddings=own.embeddings)]
        if others:
            joined = concat_streams(others)
            joined = joined.replace(embeddings=self.norm(f"latents_{layer}_context_norm", joined.embeddings))
            context = [joined, *context]
        keys = concat_streams(context)
        x = latents.embeddings + self.drop(
            self.attention(f"latents_{layer}_cross")(own.embeddings, keys.embeddings, keys.mask), train
        )
        x = shard(x, "act_batch", "act_length", "act_embed")
        x = mlp_residual(
            f"latents_{layer}", x, train, mlp_width=self.mlp_width, dropout=self.dropout, dtype=self.dtype
        )
        return latents.replace(embeddings=x)

    def read_latents(self, layer: int, x: jax.Array, latents: Encoded, train: bool) -> jax.Array:
        """Gated cross-attention and gated MLP of the reader."""
        y = self.attention(f"reader_{layer}_cross")(
            self.norm(f"reader_{layer}_query_norm", x), latents.embeddings, latents.mask
        )
        x = x + self.gate(f"reader_{layer}_cross_gate", x) * self.drop(y, train)
        y = Mlp(self.mlp_width, dtype=self.dtype, name=f"reader_{layer}_mlp")(
            self.norm(f"reader_{layer}_mlp_norm", x)
        )
        x = x + self.gate(f"reader_{layer}_mlp_gate", x) * self.drop(y, train)
        return shard(x, "act_batch", "act_length", "act_embed")

    def norm(self, name: str, x: jax.Array) -> jax.Array:
        """x normalised."""
        return LayerNorm(dtype=self.dtype, name=name)(x)

    def attention(self, name: str) -> MultiHeadAttention:
        """A cross-attention."""
        return MultiHeadAttention(num_heads=self.num_heads, dtype=self.dtype, name=name)

    def drop(self, x: jax.Array, train: bool) -> jax.Array:
        """x with dropout."""
        return nn.Dropout(self.dropout, deterministic=not train)(x)

    def gate(self, name: str, like: jax.Array) -> jax.Array:
        """tanh of a learned scalar, as ``"1 1 1"``."""
        gate = self.param(name, param_axes(nn.initializers.zeros), ())
        return jnp.tanh(gate).astype(like.dtype).reshape(1, 1, 1)
