"""Residual convolutional networks for pictures."""

from typing import Literal

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.batch import Encoded, Image
from mmjax.encoders.base import Encoder
from mmjax.layers import Conv2d, GroupNorm
from mmjax.sharding import shard

EXPANSION = {"basic": 1, "bottleneck": 4}


class Residual(nn.Module):
    """He et al. 2016, eq. 1 and 2: ``relu(F(x) + x)``, x through a 1 x 1 convolution where the shapes differ.

    "basic" (figure 5, left) is two 3 x 3 convolutions; "bottleneck" (right) 1 x 1, 3 x 3 and 1 x 1 to four
    times the width. The stride is the 3 x 3 convolution's, as implementations since have it.
    """

    width: int
    kind: Literal["basic", "bottleneck"]
    stride: int
    num_groups: int
    dtype: str

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B height width C"]) -> Float[jax.Array, "B M N D"]:
        sizes = {"basic": (3, 3), "bottleneck": (1, 3, 1)}[self.kind]
        strided = {"basic": 0, "bottleneck": 1}[self.kind]
        out = self.width * EXPANSION[self.kind]

        def conv_norm(x, width, size, stride, name):
            x = convolution(width, size, stride, self.dtype, f"{name}_conv")(x)
            return GroupNorm(self.num_groups, dtype=self.dtype, name=f"{name}_norm")(x)

        y = x
        for i, size in enumerate(sizes):
            last = i == len(sizes) - 1
            y = conv_norm(
                y, out if last else self.width, size, self.stride if i == strided else 1, f"residual_{i}"
            )
            y = y if last else nn.relu(y)
        if x.shape != y.shape:
            x = conv_norm(x, out, 1, self.stride, "shortcut")
        return shard(nn.relu(x + y), "act_batch", None, None, "act_embed")


def convolution(width: int, size: int, stride: int, dtype: str, name: str) -> Conv2d:
    """Without a bias, which the norm behind it has."""
    return Conv2d(width, size, stride, use_bias=False, by="xla", dtype=dtype, name=name)


class ResNet(Encoder):
    """He et al. 2016, table 1, with group in the place of batch normalisation: a token for each last cell.

    ResNet-18 is ``stages=(2, 2, 2, 2), block="basic"``, ResNet-50 ``(3, 4, 6, 3), "bottleneck"``; tokens are
    ``8 width`` and ``32 width`` wide, in reading order. `stem` "large" shrinks four times (7 x 7 and a
    maximum, for pictures of 224), "small" not at all (3 x 3, section 4.2, for pictures of 32); each stage but
    the first halves. A cell knows its place by the padding that it sees, and by nothing else.
    """

    stages: tuple[int, ...] = (2, 2, 2, 2)
    block: Literal["basic", "bottleneck"] = "basic"
    width: int = 64
    stem: Literal["large", "small"] = "large"
    num_groups: int = 32
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Image, train: bool = False) -> Encoded:
        """Image ``"B height width channel"`` -> Encoded ``"B L D"``."""
        for name, found, valid in (
            ("block", self.block, ("basic", "bottleneck")),
            ("stem", self.stem, ("large", "small")),
        ):
            if found not in valid:
                raise ValueError(f"{name} expects one of {list(valid)}, found {found!r}")
        size, stride = {"large": (7, 2), "small": (3, 1)}[self.stem]
        x = convolution(self.width, size, stride, self.dtype, "stem_conv")(image.pixels)
        x = nn.relu(GroupNorm(self.num_groups, dtype=self.dtype, name="stem_norm")(x))
        if self.stem == "large":
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for i, depth in enumerate(self.stages):
            for j in range(depth):
                x = Residual(
                    self.width * 2**i, self.block, stride=2 if i and not j else 1, num_groups=self.num_groups,
                    dtype=self.dtype, name=f"stage_{i}_{j}",
                )(x)  # fmt: skip
        x = einops.rearrange(x, "B M N D -> B (M N) D")
        return Encoded(x, jnp.broadcast_to(image.mask[:, None], x.shape[:2]))
