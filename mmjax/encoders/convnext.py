"""A convolutional stem for ViT."""

import einops
import flax.linen as nn
import jax
from jaxtyping import Float

from mmjax.layers import Conv2d, DepthwiseConv2d, Einsum, LayerNorm
from mmjax.sharding import param_axes


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022, figure 4: depthwise 7 x 7, norm, four times as wide, GELU, back, layer scale."""

    initial_scale: float
    dtype: str

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
        init = param_axes(nn.initializers.constant(self.initial_scale), "embed")
        return x + self.param("scale", init, (channels,)).astype(self.dtype)[None, None, None] * y


class ConvNeXtStem(nn.Module):
    """ConvNeXt's first stages in front of a ViT's trunk (Liu et al. 2022, section 2.2 and table 9).

    A `patch` x `patch` convolution of that stride and a norm ("patchify"), `blocks[0]` blocks; for each
    further entry of `channels` a norm, a 2 x 2 convolution of stride 2, and its blocks; then a linear map to
    the trunk's width. ``blocks=(0,)`` is the patchify stem alone. A token stands for ``patch 2^(n-1)`` pixels
    each way, n the length of `channels`.
    """

    patch: int = 4
    channels: tuple[int, ...] = (96,)
    blocks: tuple[int, ...] = (3,)
    initial_scale: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, pixels: Float[jax.Array, "B height width channel"], width: int
    ) -> Float[jax.Array, "B L {width}"]:
        """Cells in reading order."""
        if len(self.channels) != len(self.blocks) or not self.channels:
            raise ValueError(
                f"expected a number of blocks for each of channels={self.channels}, found {self.blocks}"
            )
        side = self.patch * 2 ** (len(self.channels) - 1)
        if pixels.shape[1] % side or pixels.shape[2] % side:
            raise ValueError(
                f"a picture of {pixels.shape[1:3]} pixels does not divide into cells of {(side, side)}"
            )
        x = pixels
        for i, (channels, num_blocks) in enumerate(zip(self.channels, self.blocks, strict=True)):
            size = 2 if i else self.patch
            x = LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x) if i else x
            x = Conv2d(channels, size, size, dtype=self.dtype, name=f"conv_{i}")(x)
            x = x if i else LayerNorm(dtype=self.dtype, name="norm_0")(x)
            for j in range(num_blocks):
                x = ConvNeXtBlock(self.initial_scale, self.dtype, name=f"block_{i}_{j}")(x)
        x = einops.rearrange(x, "B M N C -> B (M N) C")
        return Einsum(
            "B L P, P D -> B L D",
            shape=(x.shape[-1], width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="linear",
        )(x)
