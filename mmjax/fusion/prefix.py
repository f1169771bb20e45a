"""The other modalities stand before the text."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.fusion.base import Fusion
from mmjax.fusion.join import (
    add_modality_embedding,
    check_names,
    concat_streams,
    select_streams,
    split_streams,
)
from mmjax.layers import Transformer


class Prefix(Fusion):
    """A decoder whose text is preceded by the other streams (Wang et al. 2022, SimVLM: prefix LM).

    Every stream is mapped to the trunk's width where it must be. A position of the prefix sees the whole
    prefix; one of the reader sees the prefix, itself and what stands before it. Nothing is numbered anew:
    streams keep the positions of their encoders, whatever the length of the prefix. For generation the
    reader's encoder must be causal too.

    reader: the stream that is decoded and replaced.
    """

    reader: str
    trunk: Transformer

    def is_causal_for(self, stream: str) -> bool:
        return True

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        check_names(self, self.streams, {"reader": (self.reader,)}, into=None)
        if self.trunk.causal:
            raise InputError(
                "Prefix expects a trunk with causal=False, found True: it makes its own mask, and under "
                "another the prefix could not see itself whole"
            )
        streams = add_modality_embedding(
            self, select_streams(self, self.streams, encoded), self.trunk.width, self.trunk.dtype
        )
        streams |= {self.reader: streams.pop(self.reader)}  # last
        joined = concat_streams(streams.values())
        length = streams[self.reader].mask.shape[1]
        allowed = prefix_mask(joined.mask.shape[1] - length, length)
        x = split_streams(self.trunk(joined.embeddings, joined.mask, train, allowed), streams)[self.reader]
        return encoded | {self.reader: Encoded(x, streams[self.reader].mask)}


def prefix_mask(prefix: int, length: int) -> Bool[jax.Array, "1 L L"]:
    """Which of prefix + length positions (rows) may attend to which: the prefix, and what is not later."""
    position = jnp.arange(prefix + length)
    return ((position[None, :] < prefix) | (position[None, :] <= position[:, None]))[None]
