"""Residual convolutional networks for images."""

import functools
from typing import Literal

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.batch import Encoded, Image
from mmjax.encoders.base import Encoder
from mmjax.layers import Conv2d, GroupNorm
from mmjax.ranges import Depth, Dtype, Kernel, Size
from mmjax.sharding import shard

# Without a bias, since a norm with a bias follows.
Conv = functools.partial(Conv2d, use_bias=False, implementation="xla")
EXPANSION = {"basic": 1, "bottleneck": 4}


class ResidualBlock(nn.Module):
    """relu(F(x) + x), with a 1 x 1 convolution of x if the shapes differ (He et al. 2016, eq. 1 and 2).

    kind: "basic" has two 3 x 3 convolutions (figure 5, left); "bottleneck" has 1 x 1, 3 x 3 and 1 x 1
      convolutions, with an output of 4 `width` (right).
    stride: that of the first 3 x 3 convolution, as in later implementations.
    """

    width: Size
    kind: Literal["basic", "bottleneck"]
    stride: Kernel
    num_groups: Size
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B height width C"]) -> Float[jax.Array, "B M N D"]:
        kernel_sizes = {"basic": (3, 3), "bottleneck": (1, 3, 1)}[self.kind]
        strided = {"basic": 0, "bottleneck": 1}[self.kind]
        out_width = self.width * EXPANSION[self.kind]

        def conv_norm(x, width, kernel_size, stride, name):
            x = Conv(width, kernel_size, stride, dtype=self.dtype, name=f"{name}_conv")(x)
            return GroupNorm(self.num_groups, dtype=self.dtype, name=f"{name}_norm")(x)

        y = x
        for i, kernel_size in enumerate(kernel_sizes):
            is_last = i == len(kernel_sizes) - 1
            width, stride = out_width if is_last else self.width, self.stride if i == strided else 1
            y = conv_norm(y, width, kernel_size, stride, f"residual_{i}")
            y = y if is_last else nn.relu(y)
        if x.shape != y.shape:
            x = conv_norm(x, out_width, 1, self.stride, "shortcut")
        return shard(nn.relu(x + y), "act_batch", None, None, "act_embed")


class ResNet(Encoder):
    """ResNet with group normalisation (He et al. 2016, table 1). A token is a cell of the last feature map.

    ResNet-18 is `stages=(2, 2, 2, 2), block="basic"`, with tokens of 8 `width`. ResNet-50 is `stages=(3, 4,
    6, 3), block="bottleneck"`, with tokens of 32 `width`. There are no position embeddings.

    stages: the number of blocks of each stage. Every stage but the first halves the resolution.
    stem: "large" divides the resolution by four, for images of about 224 pixels; "small" keeps it, for images
      of about 32 pixels (section 4.2).
    """

    stages: tuple[Depth, ...] = (2, 2, 2, 2)
    block: Literal["basic", "bottleneck"] = "basic"
    width: Size = 64
    stem: Literal["large", "small"] = "large"
    num_groups: Size = 32
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, image: Image, train: bool = False) -> Encoded:
        for name, found, valid in (
            ("block", self.block, ("basic", "bottleneck")),
            ("stem", self.stem, ("large", "small")),
        ):
            if found not in valid:
                raise ValueError(f"{name} expects one of {list(valid)}, found {found!r}")
        kernel_size, stride = {"large": (7, 2), "small": (3, 1)}[self.stem]
        x = Conv(self.width, kernel_size, stride, dtype=self.dtype, name="stem_conv")(image.pixels)
        x = nn.relu(GroupNorm(self.num_groups, dtype=self.dtype, name="stem_norm")(x))
        if self.stem == "large":
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for i, depth in enumerate(self.stages):
            for j in range(depth):
                x = ResidualBlock(
                    self.width * 2**i, self.block, stride=2 if i and not j else 1, num_groups=self.num_groups,
                    dtype=self.dtype, name=f"stage_{i}_{j}",
                )(x)  # fmt: skip
        x = einops.rearrange(x, "B M N D -> B (M N) D")
        return Encoded(x, jnp.broadcast_to(image.mask[:, None], x.shape[:2]))
