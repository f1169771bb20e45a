"""A decoder with the other modalities as its prefix."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.fusion import ops
from mmjax.fusion.base import Fusion
from mmjax.layers import Transformer


class Prefix(Fusion):
    """A decoder of one stream whose prefix is the other streams (Wang et al. 2022, SimVLM: prefix LM).

    Positions of the prefix attend to the whole prefix; positions of the decoded stream attend to the prefix,
    to themselves and to earlier positions. Streams of another width are projected to the trunk's. The fusion
    adds no position embeddings, so positions do not depend on the prefix's length. For generation, the
    encoder of the decoded stream must be causal too.

    updated_stream: the stream that is decoded; the trunk's output replaces it.
    trunk: a Transformer with causal=False.
    """

    updated_stream: str
    trunk: Transformer

    def is_causal_for(self, stream: str) -> bool:
        return True

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        streams = ops.select_streams(self, encoded, updated_stream=(self.updated_stream,))
        if self.trunk.causal:
            raise InputError(
                "Prefix expects a trunk with causal=False, found True: the positions of the prefix must "
                "attend to the whole prefix, and Prefix passes a mask that keeps the rest causal"
            )
        streams = ops.add_modality_embedding(self, streams, self.trunk.width, self.trunk.dtype)
        streams |= {self.updated_stream: streams.pop(self.updated_stream)}  # move it to the end
        joined = ops.concat_streams(streams.values())
        mask = streams[self.updated_stream].mask
        allowed = prefix_mask(joined.mask.shape[1] - mask.shape[1], mask.shape[1])
        x = self.trunk.encode(joined.embeddings, joined.mask, train, allowed).embeddings
        return encoded | {
            self.updated_stream: Encoded(ops.split_streams(x, streams)[self.updated_stream], mask)
        }


def prefix_mask(prefix: int, length: int) -> Bool[jax.Array, "1 L L"]:
    """The attention mask [query, key] of `prefix` + `length` positions: key in the prefix, or not later."""
    position = jnp.arange(prefix + length)
    return ((position[None, :] < prefix) | (position[None, :] <= position[:, None]))[None]
