"""Streams that exchange what passes through a few tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded, is_present
from mmjax.errors import InputError
from mmjax.fusion.base import Fusion
from mmjax.fusion.join import (
    add_modality_embedding,
    any_present,
    check_names,
    concat_streams,
    learned_tokens,
    select_streams,
    split_streams,
)
from mmjax.layers import Block, LayerNorm


class Bottleneck(Fusion):
    """Attention bottlenecks (Nagrani et al. 2021, MBT, section 3.2.3, eq. 8 and 9).

    In each of `depth` layers a stream attends to itself and to `num_bottlenecks` tokens that all share; every
    stream makes its own next state of those, and their mean over the streams that are there is what all see
    in the next layer. So what one modality says reaches another a layer later. Layers below `first_mixing`
    (the paper's fusion layer L_f) see no tokens.

    reader: the one stream that is replaced; None: all are, and the tokens become a new stream `into`.
    """

    depth: int
    width: int
    num_heads: int
    mlp_width: int
    num_bottlenecks: int = 4
    first_mixing: int = 0
    reader: str | None = None
    into: str = "fused"
    dropout: float = 0.0
    dtype: str = "float32"

    def made_streams(self) -> tuple[str, ...]:
        return () if self.reader else (self.into,)

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        check_names(self, self.streams, {"reader": (self.reader,)}, None if self.reader else self.into)
        if self.reader and self.depth < self.first_mixing + 2:
            raise InputError(
                f"Bottleneck with a reader expects a depth of at least first_mixing + 2, found {self.depth} "
                f"with first_mixing={self.first_mixing}: one layer writes into the tokens, the next reads "
                "them"
            )
        streams = add_modality_embedding(
            self, select_streams(self, self.streams, encoded), self.width, self.dtype
        )
        there = jnp.stack([is_present(value) for value in streams.values()], axis=1)
        tokens = learned_tokens(self, "bottleneck", self.num_bottlenecks, streams[self.streams[0]])
        for layer in range(self.depth):
            # What the reader will not see any more is not computed.
            last = layer == self.depth - 1 and self.reader is not None
            votes = []
            for stream in (self.reader,) if last else self.streams:
                own = {"own": streams[stream]} | ({"tokens": tokens} if layer >= self.first_mixing else {})
                joined = concat_streams(own.values())
                x = Block(
                    num_heads=self.num_heads, mlp_width=self.mlp_width, dropout=self.dropout,
                    dtype=self.dtype, name=f"{stream}_{layer}",
                )(joined.embeddings, joined.mask, train)  # fmt: skip
                parts = split_streams(x, own)
                streams |= {stream: streams[stream].replace(embeddings=parts["own"])}
                votes += [parts["tokens"]] if "tokens" in parts else []
            if votes and not last:
                mean = mean_over_present(jnp.stack(votes, axis=1), there, tokens.embeddings)
                tokens = tokens.replace(embeddings=mean)
        if self.reader is None:
            tokens = tokens.replace(mask=any_present(streams, self.num_bottlenecks))
            made = streams | {self.into: tokens}
        else:
            made = {self.reader: streams[self.reader]}
        fused = {
            name: value.replace(embeddings=LayerNorm(dtype=self.dtype, name=f"{name}_norm")(value.embeddings))
            for name, value in made.items()
        }
        return encoded | fused


def mean_over_present(
    votes: Float[jax.Array, "B S N D"], there: Bool[jax.Array, "B S"], otherwise: Float[jax.Array, "B N D"]
) -> Float[jax.Array, "B N D"]:
    """The mean over those of S streams that are there; `otherwise` where none is."""
    weight = there[..., None, None].astype(votes.dtype)
    mean = (votes * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
    return jnp.where(there.any(1)[:, None, None], mean, otherwise)
