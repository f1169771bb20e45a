"""Fusion at several depths of the encoders."""

from typing import Any

import flax.linen as nn
import jax

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
)
from mmjax.layers import Block, LayerNorm


class Hierarchical(Fusion):
    """The reader reads the others at each of `depth` levels of their encoders, lowest first.

    The levels of a stream are the states at its trunk's `taps` and its last one. At each the reader's own
    state is added to what it has read so far; then it attends to the others' states of that level, to itself,
    and goes through an MLP: pairs of like depth, joined from below, as by the bridges of Xu et al. 2023
    (BridgeTower).

    reader: the stream that is replaced. None: one learned position reads all streams, a new stream `into`.
    """

    depth: int
    width: int
    num_heads: int
    mlp_width: int
    reader: str | None = None
    into: str = "fused"
    dropout: float = 0.0
    dtype: str = "float32"

    def made_streams(self) -> tuple[str, ...]:
        return () if self.reader else (self.into,)

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        check_names(self, self.streams, {"reader": (self.reader,)}, None if self.reader else self.into)
        streams = {
            name: self.levels(name, x) for name, x in select_streams(self, self.streams, encoded).items()
        }
        levels = [
            add_modality_embedding(
                self, {name: states[level] for name, states in streams.items()}, self.width, self.dtype,
                suffix=f"_{level}",
            )
            for level in range(self.depth)
        ]  # fmt: skip
        fused = levels[0][self.reader] if self.reader else self.question(levels[0])
        for level, states in enumerate(levels):
            if self.reader and level > 0:
                fused = fused.replace(embeddings=fused.embeddings + states[self.reader].embeddings)
            others = [value for name, value in states.items() if name != self.reader]
            context = concat_streams([learned_tokens(self, f"level_{level}_null", 1, fused), *others])
            fused = fused.replace(embeddings=self.read_level(f"level_{level}", fused, context, train))
        fused = fused.replace(embeddings=LayerNorm(dtype=self.dtype, name="norm")(fused.embeddings))
        return encoded | {self.reader or self.into: fused}

    def read_level(self, name: str, fused: Encoded, context: Encoded, train: bool) -> jax.Array:
        """What is fused so far reads one level: ``"B L D"``."""
        options: dict[str, Any] = {"dropout": self.dropout, "dtype": self.dtype}
        x = cross_attend(name, fused.embeddings, context, train, num_heads=self.num_heads, **options)
        if self.reader is None:  # one position has nothing to say to itself
            return mlp_residual(name, x, train, mlp_width=self.mlp_width, **options)
        block = Block(num_heads=self.num_heads, mlp_width=self.mlp_width, name=f"{name}_block", **options)
        return block(x, fused.mask, train)

    def levels(self, stream: str, value: Encoded) -> list[Encoded]:
        """The states of a stream, lowest first; an InputError if they are not `depth`."""
        if len(value.hidden_states) != self.depth - 1:
            taps = tuple(range(1, self.depth))
            raise InputError(
                f"Hierarchical with depth={self.depth} expects {self.depth - 1} states of {stream!r} below "
                f"its last, found {len(value.hidden_states)}: give its encoder's trunk as many taps, such as {taps}"
            )
        return [Encoded(state, value.mask) for state in (*value.hidden_states, value.embeddings)]

    def question(self, states: dict[str, Encoded]) -> Encoded:
        """The learned position that reads where there is no reader."""
        question = learned_tokens(self, "question", 1, next(iter(states.values())))
        return question.replace(mask=any_present(states))
