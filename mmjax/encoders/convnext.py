"""A ConvNeXt stem for ViT."""

import einops
import flax.linen as nn
import jax
from jaxtyping import Float

from mmjax.encoders.projection import project
from mmjax.layers import Conv2d, DepthwiseConv2d, Einsum, LayerNorm
from mmjax.ranges import Depth, Dtype, NonNegative, Size
from mmjax.sharding import param_axes


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7 convolution, norm, MLP of 4 C, layer scale, residual (Liu et al. 2022, figure 4)."""

    layer_scale_init: NonNegative
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B height width C"]) -> Float[jax.Array, "B height width C"]:
        channels = x.shape[-1]
        y = DepthwiseConv2d(7, dtype=self.dtype, name="depthwise")(x)
        y = LayerNorm(dtype=self.dtype, name="norm")(y)
        y = Einsum(
            "B M N D, D F -> B M N F", shape=(channels, 4 * channels), axes=("embed", "mlp"),
            dtype=self.dtype, name="up",
        )(y)  # fmt: skip
        y = Einsum(
            "B M N F, F D -> B M N D", shape=(4 * channels, channels), axes=("mlp", "embed"),
            dtype=self.dtype, name="down",
        )(nn.gelu(y))  # fmt: skip
        init = param_axes(nn.initializers.constant(self.layer_scale_init), "embed")
        return x + self.param("scale", init, (channels,)).astype(self.dtype)[None, None, None] * y


class ConvNeXtStem(nn.Module):
    """The first stages of ConvNeXt, as a stem for ViT (Liu et al. 2022, section 2.2 and table 9).

    The first stage is a `patch` x `patch` convolution of that stride, a norm and `blocks[0]` blocks. Each
    further stage is a norm, a 2 x 2 convolution of stride 2 and its blocks. A linear map to the trunk's width
    follows. A token covers `patch * 2 ** (len(channels) - 1)` pixels along each axis.

    channels, blocks: the width and the number of blocks of each stage; blocks=(0,) only patchifies.
    layer_scale_init: the initial layer scale of the blocks.
    """

    patch: Size = 4
    channels: tuple[Size, ...] = (96,)
    blocks: tuple[Depth, ...] = (3,)
    layer_scale_init: NonNegative = 1e-6
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, pixels: Float[jax.Array, "B height width channel"], width: int
    ) -> Float[jax.Array, "B L {width}"]:
        """Returns tokens in reading order."""
        if len(self.channels) != len(self.blocks) or not self.channels:
            raise ValueError(
                f"expected a number of blocks for each of channels={self.channels}, found {self.blocks}"
            )
        side = self.patch * 2 ** (len(self.channels) - 1)
        if pixels.shape[1] % side or pixels.shape[2] % side:
            raise ValueError(
                f"an image of {pixels.shape[1:3]} pixels does not divide into cells of {(side, side)}"
            )
        x = pixels
        for i, (channels, num_blocks) in enumerate(zip(self.channels, self.blocks, strict=True)):
            kernel_size = 2 if i else self.patch
            x = LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x) if i else x
            x = Conv2d(channels, kernel_size, kernel_size, dtype=self.dtype, name=f"conv_{i}")(x)
            x = x if i else LayerNorm(dtype=self.dtype, name="norm_0")(x)
            for j in range(num_blocks):
                x = ConvNeXtBlock(self.layer_scale_init, self.dtype, name=f"block_{i}_{j}")(x)
        x = einops.rearrange(x, "B M N C -> B (M N) C")
        return project(x, width, self.dtype)
