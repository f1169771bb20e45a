"""Class logits of every position."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float32

from mmjax.batch import Array, Encoded
from mmjax.heads.base import Head
from mmjax.layers import Einsum
from mmjax.ranges import Size, Vocab


class PositionClasses(Head):
    """Class logits of each position, by a linear map (Devlin et al. 2019, 5.3)."""

    num_classes: Size
    use_bias: bool = dataclasses.field(default=True, kw_only=True)

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B L classes"]:
        x = encoded.embeddings.astype(jnp.float32)
        return Einsum(
            "B L D, D C -> B L C", shape=(x.shape[-1], self.num_classes), axes=("embed", "classes"),
            use_bias=self.use_bias, name="linear",
        )(x)  # fmt: skip


@struct.dataclass
class MaskedLogits:
    """Logits of every position, and which positions are valid."""

    logits: Array  # float32 "B L V"
    mask: Array  # bool "B L"


class FrameLogits(Head):
    """Token logits of each audio or video frame, for `objectives.CTC`.

    vocab: the number of tokens. The blank is one of them: [PAD], which occurs in no text.
    """

    vocab: Vocab

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> MaskedLogits:
        logits = PositionClasses(self.stream, self.vocab, name="classes")(encoded)
        return MaskedLogits(logits, encoded.mask)
