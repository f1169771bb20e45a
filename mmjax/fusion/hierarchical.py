"""Fusion at several depths of the encoders."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Float

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.fusion import ops
from mmjax.fusion.base import SingleResultFusion
from mmjax.layers import Block, LayerNorm
from mmjax.ranges import Decay, Depth, Dtype, Size


class Hierarchical(SingleResultFusion):
    """Cross-attention to `depth` levels of the encoders, the lowest first.

    The levels of a stream are the states at its trunk's `taps`, followed by its last state. At each level,
    the updated stream's state of that level is added to the result so far, which then attends to the other
    streams' states of the same level, then to itself, then passes through an MLP: layers of equal depth are
    joined from below, as by the bridges of Xu et al. 2023 (BridgeTower).

    updated_stream: None: a learned token attends to all streams instead.
    """

    depth: Depth
    width: Size
    num_heads: Size
    mlp_width: Size
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        states = {name: self.states(name, x) for name, x in ops.select_streams(self, encoded).items()}
        levels = [
            ops.add_modality_embedding(
                self, {name: states[name][level] for name in states}, self.width, self.dtype,
                suffix=f"_{level}",
            )
            for level in range(self.depth)
        ]  # fmt: skip
        fused = levels[0][self.updated_stream] if self.updated_stream else self.learned_query(levels[0])
        for level, streams in enumerate(levels):
            if self.updated_stream and level > 0:
                fused = fused.replace(embeddings=fused.embeddings + streams[self.updated_stream].embeddings)
            others = [value for name, value in streams.items() if name != self.updated_stream]
            context = ops.concat_streams([ops.learned_tokens(self, f"level_{level}_null", 1, fused), *others])
            fused = fused.replace(embeddings=self.read_level(f"level_{level}", fused, context, train))
        fused = fused.replace(embeddings=LayerNorm(dtype=self.dtype, name="norm")(fused.embeddings))
        return encoded | {self.result_stream: fused}

    def read_level(
        self, name: str, fused: Encoded, context: Encoded, train: bool
    ) -> Float[jax.Array, "B L D"]:
        """Cross-attention of the result so far to one level, self-attention and MLP."""
        options: dict[str, Any] = {"dropout": self.dropout, "dtype": self.dtype}
        x = ops.cross_attend(name, fused.embeddings, context, train, num_heads=self.num_heads, **options)
        if self.updated_stream is None:  # a single token needs no self-attention
            return ops.mlp_residual(name, x, train, mlp_width=self.mlp_width, **options)
        block = Block(num_heads=self.num_heads, mlp_width=self.mlp_width, name=f"{name}_block", **options)
        return block(x, fused.mask, train)

    def states(self, stream: str, value: Encoded) -> list[Encoded]:
        """The `depth` states of a stream, the lowest first; an InputError if it has another number."""
        num_hidden = len(value.hidden_states)
        if num_hidden != self.depth - 1:
            taps = tuple(range(1, self.depth))
            raise InputError(
                f"Hierarchical with depth={self.depth} expects {self.depth - 1} hidden states of {stream!r}, "
                f"found {num_hidden}: give its encoder's trunk as many taps, such as {taps}"
            )
        return [Encoded(state, value.mask) for state in (*value.hidden_states, value.embeddings)]

    def learned_query(self, streams: dict[str, Encoded]) -> Encoded:
        """The learned token that attends to the streams if there is no updated stream."""
        query = ops.learned_tokens(self, "question", 1, next(iter(streams.values())))
        return query.replace(mask=ops.any_present(streams))
