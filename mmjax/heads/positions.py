"""A class for every position."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float32

from mmjax.batch import Array, Encoded
from mmjax.heads.base import Head
from mmjax.layers import Einsum


class PositionClasses(Head):
    """Class logits of each position by a linear map: float32 ``"B L classes"`` (Devlin et al. 2019, 5.3)."""

    num_classes: int

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B L classes"]:
        x = encoded.embeddings.astype(jnp.float32)
        return Einsum(
            "B L D, D C -> B L C",
            shape=(x.shape[-1], self.num_classes),
            axes=("embed", "classes"),
            name="linear",
        )(x)


@struct.dataclass
class Frames:
    """What FrameLogits predicts."""

    logits: Array  # float32 "B L V"
    mask: Array  # bool "B L": which frames are there


class FrameLogits(Head):
    """Which token each frame of a sound or a clip says, for `objectives.CTC`.

    The blank is one of the `vocab` tokens: [PAD], which no text says.
    """

    vocab: int

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Frames:
        logits = PositionClasses(self.stream, self.vocab, name="classes")(encoded)
        return Frames(logits, encoded.mask)
