"""The interface of trunks."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
from jaxtyping import Bool, Float

from mmjax.batch import Encoded
from mmjax.ranges import Depth, Dtype, Positive, Size


class Trunk(nn.Module):
    """Maps a sequence "B L D" to one of the same shape. Masked positions never influence unmasked outputs.

    depth: the number of layers.
    width: D.
    taps: the layers, 1 to `depth` - 1, whose outputs `encode` returns as `hidden_states`.
    """

    depth: Depth
    width: Size
    _: dataclasses.KW_ONLY
    taps: tuple[Depth, ...] = ()

    @property
    def is_causal(self) -> bool:
        """Whether position t depends on no later position."""
        raise NotImplementedError

    def encode(
        self, x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"], train: bool = False
    ) -> Encoded:
        """Returns the output of the last layer and, as `hidden_states`, those of the layers in `taps`."""
        raise NotImplementedError

    def __call__(
        self, x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"], train: bool = False
    ) -> Float[jax.Array, "B L D"]:
        """Returns the output of the last layer alone."""
        return self.encode(x, mask, train).embeddings

    def check_input(self, x: jax.Array) -> None:
        """Raises ValueError if x, "B L D", has another width, or a tap is not an inner layer."""
        if x.shape[-1] != self.width:
            raise ValueError(f"the trunk has width {self.width}, and its input has width {x.shape[-1]}")
        if not all(0 < tap < self.depth for tap in self.taps):
            raise ValueError(f"taps expects layers from 1 to {self.depth - 1}, found {self.taps}")


class Identity(Trunk):
    """No layers: its output is its input. For an encoder of embeddings alone, whose layers are in the fusion.

    epsilon: that of a norm of the embeddings, which the encoder may have.
    """

    depth: Literal[0] = dataclasses.field(default=0, kw_only=True)
    epsilon: Positive = 1e-6
    dtype: Dtype = "float32"

    @property
    def is_causal(self):
        return True

    def encode(
        self,
        x: Float[jax.Array, "B L D"],
        mask: Bool[jax.Array, "B L"],
        train: bool = False,
        attention_mask: Bool[jax.Array, "#B L L"] | None = None,
    ) -> Encoded:
        self.check_input(x)
        return Encoded(x.astype(self.dtype), mask)
