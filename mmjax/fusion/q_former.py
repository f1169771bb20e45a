"""Learned queries that read the other modalities."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.fusion import ops
from mmjax.fusion.base import SingleResultFusion
from mmjax.layers import LayerNorm, MultiHeadAttention
from mmjax.ranges import Decay, Depth, Dtype, Size
from mmjax.sharding import shard


class QFormer(SingleResultFusion):
    """Learned queries that read the streams (Li et al. 2023, BLIP-2, section 3.1 and figure 2).

    In each layer, the queries and the updated stream share one self-attention and have an MLP each. In every
    `cross_every`-th layer, beginning with the first, the queries also attend to the other streams and to a
    learned null token.

    updated_stream: None: the queries read all streams and are the result.
    causal: positions of the updated stream attend to the queries and to no later position, and queries attend
      to queries only (the mask of image-grounded text generation).
    """

    depth: Depth
    width: Size
    num_heads: Size
    mlp_width: Size
    num_queries: Size = 8
    cross_every: Depth = 2
    causal: bool = False
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    def is_causal_for(self, stream: str) -> bool:
        return self.causal or stream != self.updated_stream

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        streams = ops.select_streams(self, encoded)
        if self.updated_stream and self.depth < 2:
            raise InputError(
                f"QFormer with an updated_stream expects a depth of at least 2, found {self.depth}: the "
                "stream reads in one layer what the queries read in the layer before"
            )
        streams = ops.add_modality_embedding(self, streams, self.width, self.dtype)
        queries = ops.learned_tokens(self, "queries", self.num_queries, streams[self.streams[0]])
        null = ops.learned_tokens(self, "null", 1, queries)
        others = [value for stream, value in streams.items() if stream != self.updated_stream]
        context = ops.concat_streams([null, *others])
        options = {"dropout": self.dropout, "dtype": self.dtype}
        parts = {"queries": queries}
        if self.updated_stream is not None:
            parts["stream"] = streams[self.updated_stream]
        for layer in range(self.depth):
            x = self.self_attend(layer, parts, train)
            # In the last layer the queries are computed only if they are the result.
            if self.updated_stream is None or layer < self.depth - 1:
                if layer % self.cross_every == 0:
                    x["queries"] = ops.cross_attend(
                        f"queries_{layer}", x["queries"], context, train, num_heads=self.num_heads, **options
                    )
                x["queries"] = ops.mlp_residual(
                    f"queries_{layer}", x["queries"], train, mlp_width=self.mlp_width, **options
                )
            if self.updated_stream is not None:
                x["stream"] = ops.mlp_residual(
                    f"reader_{layer}", x["stream"], train, mlp_width=self.mlp_width, **options
                )
            parts = {name: parts[name].replace(embeddings=x[name]) for name in parts}
        result = parts["stream" if self.updated_stream else "queries"]
        mask = result.mask if self.updated_stream else ops.any_present(streams, self.num_queries)
        x = LayerNorm(dtype=self.dtype, name="norm")(result.embeddings)
        return encoded | {self.result_stream: Encoded(x, mask)}

    def self_attend(
        self, layer: int, parts: dict[str, Encoded], train: bool
    ) -> dict[str, Float[jax.Array, "B _ D"]]:
        """Residual self-attention over the concatenation of the parts."""
        joined = ops.concat_streams(parts.values())
        x = joined.embeddings
        y = LayerNorm(dtype=self.dtype, name=f"self_{layer}_norm")(x)
        attention = MultiHeadAttention(num_heads=self.num_heads, dtype=self.dtype, name=f"self_{layer}")
        y = attention(y, y, joined.mask, self.attention_mask(x.shape[1]))
        x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        return ops.split_streams(shard(x, "act_batch", "act_length", "act_embed"), parts)

    def attention_mask(self, length: int) -> Bool[jax.Array, "1 L L"] | None:
        """[query, key] of all positions, those of the learned queries first; None: no mask."""
        if not self.causal:
            return None
        query, key = jnp.arange(length)[:, None], jnp.arange(length)[None, :]
        return ((key < self.num_queries) | (key <= query))[None]
