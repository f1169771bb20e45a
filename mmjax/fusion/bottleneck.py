"""Attention through a few shared tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded, is_present
from mmjax.errors import InputError
from mmjax.fusion import ops
from mmjax.fusion.base import SingleResultFusion
from mmjax.layers import Block, LayerNorm
from mmjax.ranges import Decay, Depth, Dtype, Size, Whole


class Bottleneck(SingleResultFusion):
    """Attention bottlenecks (Nagrani et al. 2021, MBT, section 3.2.3, eq. 8 and 9).

    In each layer, every stream attends to itself and to the shared bottleneck tokens, and computes its own
    update of the tokens. The tokens of the next layer are the mean of these updates over the present streams,
    so information crosses from one modality to another with a delay of one layer.

    num_bottlenecks: the number of shared tokens.
    first_fusion_layer: the paper's L_f. Layers below it have no bottleneck tokens.
    updated_stream: None updates all streams, and the tokens become the stream `new_stream`.
    """

    depth: Depth
    width: Size
    num_heads: Size
    mlp_width: Size
    num_bottlenecks: Size = 4
    first_fusion_layer: Whole = 0
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        streams = ops.select_streams(self, encoded)
        if self.updated_stream and self.depth < self.first_fusion_layer + 2:
            raise InputError(
                "Bottleneck with an updated_stream expects a depth of at least first_fusion_layer + 2, found "
                f"{self.depth} with first_fusion_layer={self.first_fusion_layer}: one layer writes the "
                "bottleneck tokens, the next reads them"
            )
        streams = ops.add_modality_embedding(self, streams, self.width, self.dtype)
        present = jnp.stack([is_present(value) for value in streams.values()], axis=1)
        tokens = ops.learned_tokens(self, "bottleneck", self.num_bottlenecks, streams[self.streams[0]])
        for layer in range(self.depth):
            # The last layer computes the result only: no layer reads the other streams or the tokens.
            is_last = layer == self.depth - 1 and self.updated_stream is not None
            updates = []
            for stream in (self.updated_stream,) if is_last else self.streams:
                has_tokens = layer >= self.first_fusion_layer
                parts = {"stream": streams[stream]} | ({"tokens": tokens} if has_tokens else {})
                joined = ops.concat_streams(parts.values())
                x = Block(
                    num_heads=self.num_heads, mlp_width=self.mlp_width, dropout=self.dropout,
                    dtype=self.dtype, name=f"{stream}_{layer}",
                )(joined.embeddings, joined.mask, train)  # fmt: skip
                split = ops.split_streams(x, parts)
                streams |= {stream: streams[stream].replace(embeddings=split["stream"])}
                updates += [split["tokens"]] if has_tokens else []
            if updates and not is_last:
                mean = mean_over_present(jnp.stack(updates, axis=1), present, tokens.embeddings)
                tokens = tokens.replace(embeddings=mean)
        if self.updated_stream is None:
            tokens = tokens.replace(mask=ops.any_present(streams, self.num_bottlenecks))
            results = streams | {self.new_stream: tokens}
        else:
            results = {self.updated_stream: streams[self.updated_stream]}
        fused = {
            name: value.replace(embeddings=LayerNorm(dtype=self.dtype, name=f"{name}_norm")(value.embeddings))
            for name, value in results.items()
        }
        return encoded | fused


def mean_over_present(
    updates: Float[jax.Array, "B S N D"], present: Bool[jax.Array, "B S"], default: Float[jax.Array, "B N D"]
) -> Float[jax.Array, "B N D"]:
    """The mean over the present ones of S streams; `default` in rows where none is present."""
    weight = present[..., None, None].astype(updates.dtype)
    mean = (updates * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
    return jnp.where(present.any(1)[:, None, None], mean, default)
