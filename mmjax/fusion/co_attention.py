"""Streams that read each other by cross-attention."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.batch import Encoded
from mmjax.layers import Block, Einsum, LayerNorm, MultiHeadAttention
from mmjax.sharding import param_axes, shard


class CoAttention(nn.Module):
    """Two-stream co-attention (Lu et al. 2019, ViLBERT, section 2.1) for any number of streams.

    In each of `depth` layers, every stream in `updated` (default: all) attends to all the other streams laid
    end to end, then to itself, then goes through its MLP; all read the state of the layer below. The context
    is led by one learned null token a stream, so that a row whose other modalities are all missing attends to
    something that is the same for every row. With `updated=("text",)` this is the text-side cross-attention
    of ALBEF and BLIP.

    Streams may differ in width: each is mapped to `width` first where it must be. A position of a stream in
    `causal` attends to no later one of its own: the decoder of a sequence-to-sequence model (Vaswani et al.
    2017, section 3.1), or of captions (Yu et al. 2022, CoCa).
    """

    streams: tuple[str, ...]
    depth: int
    width: int
    num_heads: int
    mlp_width: int
    updated: tuple[str, ...] | None = None
    causal: tuple[str, ...] = ()
    dropout: float = 0.0
    dtype: str = "float32"

    def makes(self) -> tuple[str, ...]:
        """It adds no stream."""
        return ()

    def keeps_order(self, stream: str) -> bool:
        """Whether no position of `stream` comes to know of a later one: what a causal objective asks."""
        if stream not in self.streams:
            return True
        updated = self.streams if self.updated is None else self.updated
        # What another stream has read of this one in one layer, this one could read back in the next.
        told = self.depth > 1 and any(other != stream for other in updated)
        return not told and (stream not in updated or stream in self.causal)

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        """{stream: Encoded "B L D"} -> {stream: Encoded "B L width"} for `streams`; others pass unchanged."""
        missing = sorted(set(self.streams) - set(encoded))
        if missing:
            raise ValueError(f"CoAttention fuses {list(self.streams)}, and {missing} were not encoded")
        embeddings, masks = {}, {}
        for stream in self.streams:
            x, masks[stream] = encoded[stream].embeddings, encoded[stream].mask
            if x.shape[-1] != self.width:
                x = Einsum(
                    "B L D, D M -> B L M",
                    shape=(x.shape[-1], self.width),
                    axes=("patch", "embed"),
                    dtype=self.dtype,
                    name=f"{stream}_in",
                )(x)
            # A vector per stream: without it the readers could not tell whose token they attend to.
            tag = self.param(
                f"{stream}_tag", param_axes(nn.initializers.normal(0.02), "embed"), (self.width,)
            )
            embeddings[stream] = x.astype(self.dtype) + tag[None, None].astype(self.dtype)
        updated = self.streams if self.updated is None else self.updated
        for layer in range(self.depth):
            embeddings |= {
                stream: self.read_others(f"{stream}_{layer}", stream, embeddings, masks, train)
                for stream in updated
            }
        fused = {
            stream: Encoded(
                LayerNorm(dtype=self.dtype, name=f"{stream}_norm")(embeddings[stream]), masks[stream]
            )
            for stream in updated
        }
        return encoded | fused

    def read_others(self, name: str, stream: str, embeddings: dict, masks: dict, train: bool) -> jax.Array:
        """One layer of one stream: ``"B L D"``."""
        x = embeddings[stream]
        null = self.param(
            f"{name}_null", param_axes(nn.initializers.normal(1.0), None, "embed"), (1, self.width)
        )
        others = [other for other in self.streams if other != stream]
        context = [jnp.broadcast_to(null.astype(x.dtype), (x.shape[0], 1, self.width))]
        context = jnp.concatenate(context + [embeddings[other] for other in others], axis=1)
        context_mask = jnp.concatenate(
            [jnp.ones((x.shape[0], 1), bool)] + [masks[other] for other in others], axis=1
        )
        cross = MultiHeadAttention(num_heads=self.num_heads, dtype=self.dtype, name=f"{name}_cross")(
            LayerNorm(dtype=self.dtype, name=f"{name}_query_norm")(x),
            LayerNorm(dtype=self.dtype, name=f"{name}_context_norm")(context),
            context_mask,
        )
        x = x + nn.Dropout(self.dropout, deterministic=not train)(cross)
        x = shard(x, "act_batch", "act_length", "act_embed")
        return Block(
            num_heads=self.num_heads, mlp_width=self.mlp_width, causal=stream in self.causal,
            dropout=self.dropout, dtype=self.dtype, name=f"{name}_block",
        )(x, masks[stream], train)  # fmt: skip
