"""Encoders of images of one size."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.batch import Encoded, Image
from mmjax.encoders.base import Encoder
from mmjax.encoders.convnext import ConvNeXtStem
from mmjax.encoders.projection import project
from mmjax.encoders.visible import gather_visible, insert_mask_token
from mmjax.layers import Conv2d, LayerNorm, LearnedPositions, Transformer
from mmjax.ranges import Dtype, Kernel, NonNegative, Size, SizeOrZero
from mmjax.sharding import param_axes


class LinearPatches(nn.Module):
    """Maps each patch linearly to a token (Dosovitskiy et al. 2021, eq. 1)."""

    patch: tuple[Size, Size]
    use_bias: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, pixels: Float[jax.Array, "B height width channel"], width: int
    ) -> Float[jax.Array, "B L {width}"]:
        """Returns tokens in reading order."""
        patches = split_patches(pixels, self.patch)
        patches = einops.rearrange(patches, "B L h w c -> B L (h w c)")
        return project(patches, width, self.dtype, use_bias=self.use_bias)


class ConvPatches(nn.Module):
    """Applies strided convolutions inside each patch, then a linear map to a token.

    For patches that are images themselves, such as the frames of a clip arranged in tiles.
    """

    patch: tuple[Size, Size]
    channels: tuple[Size, ...] = (16, 32)
    kernel_size: Kernel = 3
    stride: Kernel = 2
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, pixels: Float[jax.Array, "B height width channel"], width: int
    ) -> Float[jax.Array, "B L {width}"]:
        """Returns tokens in reading order."""
        patches = split_patches(pixels, self.patch)
        x = einops.rearrange(patches, "B L h w c -> (B L) h w c")
        for i, channels in enumerate(self.channels):
            conv = Conv2d(channels, self.kernel_size, self.stride, dtype=self.dtype, name=f"conv_{i}")
            x = nn.relu(conv(x))
        x = einops.rearrange(x, "(B L) h w c -> B L (h w c)", B=pixels.shape[0])
        return project(x, width, self.dtype)


def split_patches(pixels: jax.Array, patch: tuple[int, int]) -> jax.Array:
    """Patches in reading order: "B height width channel" -> "B L patch_height patch_width channel"."""
    if pixels.shape[1] % patch[0] or pixels.shape[2] % patch[1]:
        raise ValueError(f"an image of {pixels.shape[1:3]} pixels does not divide into patches of {patch}")
    return einops.rearrange(pixels, "B (M h) (N w) c -> B (M N) h w c", h=patch[0], w=patch[1])


class ViT(Encoder):
    """Vision Transformer: stem, position embeddings and trunk (Dosovitskiy et al. 2021). It does not pool.

    num_registers: learned tokens without positions in front of the patches (Darcet et al. 2024).
    num_class_tokens: learned tokens with positions, first of all (Dosovitskiy et al. 2021, eq. 1).
    input_norm: normalise the tokens before the trunk (CLIP).
    mask_token: replace masked patches by a learned vector (Bao et al. 2022, BEiT, section 2.3). Otherwise
      they are left out (He et al. 2022, MAE, section 3).
    """

    stem: LinearPatches | ConvPatches | ConvNeXtStem
    trunk: Transformer
    num_registers: SizeOrZero = 0
    position_init_std: NonNegative = 1.0
    mask_token: bool = False
    num_class_tokens: SizeOrZero = 0
    input_norm: bool = False

    @property
    def hides_patches(self):
        return True

    @nn.compact
    def __call__(self, image: Image, train: bool = False) -> Encoded:
        x = self.stem(image.pixels, self.trunk.width)
        if self.mask_token:
            token = self.param("mask_token", param_axes(nn.initializers.normal(0.02), "embed"), x.shape[-1:])
            x = insert_mask_token(x, image.visible, token)
        if self.num_class_tokens:
            init = param_axes(nn.initializers.normal(0.02), None, "embed")
            tokens = self.param("class_tokens", init, (self.num_class_tokens, self.trunk.width))
            x = jnp.concatenate([jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape)).astype(x.dtype), x], 1)
        x = LearnedPositions(x.shape[1], self.position_init_std, name="positions")(x)
        first, x = x[:, : self.num_class_tokens], x[:, self.num_class_tokens :]
        mask, patch_indices = jnp.broadcast_to(image.mask[:, None], x.shape[:2]), None
        if image.visible is not None and not self.mask_token:
            x, mask, patch_indices = gather_visible(x, mask, image.visible)
        if self.num_registers:
            init = param_axes(nn.initializers.normal(0.02), "positions", "embed")
            registers = self.param("registers", init, (self.num_registers, self.trunk.width))
            registers = jnp.broadcast_to(registers, (x.shape[0], *registers.shape)).astype(x.dtype)
            first = jnp.concatenate([first, registers], 1)
        if num_first := first.shape[1]:
            x = jnp.concatenate([first, x], 1)
            mask = jnp.broadcast_to(image.mask[:, None], x.shape[:2])
            if patch_indices is not None:
                patch_indices = jnp.pad(patch_indices, ((0, 0), (num_first, 0)), constant_values=-1)
        if self.input_norm:
            x = LayerNorm(self.trunk.epsilon, name="input_norm")(x)
        return self.trunk.encode(x, mask, train).replace(patch_indices=patch_indices)
