"""Learned questions to the other modalities."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.fusion.base import Fusion
from mmjax.fusion.join import (
    add_modality_embedding,
    any_present,
    check_names,
    concat_streams,
    cross_attend,
    learned_tokens,
    mlp_residual,
    select_streams,
    split_streams,
)
from mmjax.layers import LayerNorm, MultiHeadAttention
from mmjax.sharding import shard


class QFormer(Fusion):
    """Learned queries that read the streams (Li et al. 2023, BLIP-2, section 3.1 and figure 2).

    In each of `depth` layers the queries and the reader's positions attend to all of them by the same
    self-attention; in each `cross_every`-th, from the first, the queries then attend to the other streams;
    queries and reader have an MLP each. The context is led by a learned null token.

    reader: the stream that is replaced. With `causal` its positions see the queries and those before them,
      and queries see only queries (the mask of image-grounded text generation). None: the queries read all
      streams, and are a new stream `into`.
    """

    depth: int
    width: int
    num_heads: int
    mlp_width: int
    num_queries: int = 8
    cross_every: int = 2
    reader: str | None = None
    causal: bool = False
    into: str = "fused"
    dropout: float = 0.0
    dtype: str = "float32"

    def made_streams(self) -> tuple[str, ...]:
        return () if self.reader else (self.into,)

    def is_causal_for(self, stream: str) -> bool:
        return self.causal or stream != self.reader

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        check_names(self, self.streams, {"reader": (self.reader,)}, None if self.reader else self.into)
        if self.reader and self.depth < 2:
            raise InputError(
                f"QFormer with a reader expects a depth of at least 2, found {self.depth}: what the queries "
                "read in one layer, the reader reads in the next"
            )
        streams = add_modality_embedding(
            self, select_streams(self, self.streams, encoded), self.width, self.dtype
        )
        queries = learned_tokens(self, "queries", self.num_queries, streams[self.streams[0]])
        null = learned_tokens(self, "null", 1, queries)
        others = [value for stream, value in streams.items() if stream != self.reader]
        context = concat_streams([null, *others])
        options = {"dropout": self.dropout, "dtype": self.dtype}
        parts = {"queries": queries} | ({"reader": streams[self.reader]} if self.reader else {})
        for layer in range(self.depth):
            x = self.read_each_other(layer, parts, train)
            # In the last layer nobody reads the queries any more, unless they are the result.
            if self.reader is None or layer < self.depth - 1:
                if layer % self.cross_every == 0:
                    x["queries"] = cross_attend(
                        f"queries_{layer}", x["queries"], context, train, num_heads=self.num_heads, **options
                    )
                x["queries"] = mlp_residual(
                    f"queries_{layer}", x["queries"], train, mlp_width=self.mlp_width, **options
                )
            if self.reader is not None:
                x["reader"] = mlp_residual(
                    f"reader_{layer}", x["reader"], train, mlp_width=self.mlp_width, **options
                )
            parts = {name: parts[name].replace(embeddings=x[name]) for name in parts}
        result = parts["reader" if self.reader else "queries"]
        mask = result.mask if self.reader else any_present(streams, self.num_queries)
        x = LayerNorm(dtype=self.dtype, name="norm")(result.embeddings)
        return encoded | {self.reader or self.into: Encoded(x, mask)}

    def read_each_other(self, layer: int, parts: dict[str, Encoded], train: bool) -> dict[str, jax.Array]:
        """Self-attention of queries and reader together."""
        joined = concat_streams(parts.values())
        x = joined.embeddings
        y = LayerNorm(dtype=self.dtype, name=f"self_{layer}_norm")(x)
        attention = MultiHeadAttention(num_heads=self.num_heads, dtype=self.dtype, name=f"self_{layer}")
        y = attention(y, y, joined.mask, self.allowed(x.shape[1]))
        x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
        return split_streams(shard(x, "act_batch", "act_length", "act_embed"), parts)

    def allowed(self, length: int) -> jax.Array | None:
        """Who may see whom: bool ``"1 L L"``."""
        if not self.causal:
            return None
        asks, asked = jnp.arange(length)[:, None], jnp.arange(length)[None, :]
        return ((asked < self.num_queries) | (asked <= asks))[None]
