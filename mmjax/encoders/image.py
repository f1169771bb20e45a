"""Image towers."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.batch import Encoded, Image
from mmjax.encoders.base import Encoder
from mmjax.encoders.convnext import ConvNeXtStem
from mmjax.encoders.visible import only_visible, stand_in
from mmjax.layers import Conv2d, Einsum, LearnedPositions, Transformer
from mmjax.sharding import param_axes


class LinearPatches(nn.Module):
    """One linear map of every patch: Dosovitskiy et al. 2021, eq. 1."""

    patch: tuple[int, int]
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, pixels: Float[jax.Array, "B height width channel"], width: int
    ) -> Float[jax.Array, "B L {width}"]:
        """Patches in reading order."""
        patches = split_patches(pixels, self.patch)
        patches = einops.rearrange(patches, "B L h w c -> B L (h w c)")
        return Einsum(
            "B L P, P D -> B L D",
            shape=(patches.shape[-1], width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="linear",
        )(patches)


class ConvPatches(nn.Module):
    """A small strided convolution inside each patch, then one linear map of what it found.

    For patches that are pictures themselves, such as the frames of a clip laid out in tiles.
    """

    patch: tuple[int, int]
    channels: tuple[int, ...] = (16, 32)
    size: int = 3
    stride: int = 2
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, pixels: Float[jax.Array, "B height width channel"], width: int
    ) -> Float[jax.Array, "B L {width}"]:
        """Patches in reading order."""
        patches = split_patches(pixels, self.patch)
        x = einops.rearrange(patches, "B L h w c -> (B L) h w c")
        for i, channels in enumerate(self.channels):
            x = nn.relu(Conv2d(channels, self.size, self.stride, dtype=self.dtype, name=f"conv_{i}")(x))
        x = einops.rearrange(x, "(B L) h w c -> B L (h w c)", B=pixels.shape[0])
        return Einsum(
            "B L P, P D -> B L D",
            shape=(x.shape[-1], width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="linear",
        )(x)


def split_patches(pixels: jax.Array, patch: tuple[int, int]) -> jax.Array:
    """``"B height width channel" -> "B L patch_height patch_width channel"``, in reading order."""
    if pixels.shape[1] % patch[0] or pixels.shape[2] % patch[1]:
        raise ValueError(f"a picture of {pixels.shape[1:3]} pixels does not divide into patches of {patch}")
    return einops.rearrange(pixels, "B (M h) (N w) c -> B (M N) h w c", h=patch[0], w=patch[1])


class ViT(Encoder):
    """Vision Transformer, Dosovitskiy et al. 2021: patches, positions, trunk. Pooling is the head's business.

    `num_registers` learned tokens are put in front (a class token is one of them; Darcet et al. 2024).
    Patches that a view hides are left out (He et al. 2022, MAE, section 3), or with `mask_token` a learned
    vector stands in for each (Bao et al. 2022, BEiT, section 2.3).
    """

    stem: LinearPatches | ConvPatches | ConvNeXtStem
    trunk: Transformer
    num_registers: int = 0
    position_scale: float = 1.0
    mask_token: bool = False

    @property
    def hides_patches(self):
        return True

    @nn.compact
    def __call__(self, image: Image, train: bool = False) -> Encoded:
        """Image ``"B height width channel"`` -> Encoded ``"B L D"``."""
        x = self.stem(image.pixels, self.trunk.width)
        if self.mask_token:
            token = self.param("mask_token", param_axes(nn.initializers.normal(0.02), "embed"), x.shape[-1:])
            x = stand_in(x, image.visible, token)
        x = LearnedPositions(x.shape[1], self.position_scale, name="positions")(x)
        mask, patch_indices = jnp.broadcast_to(image.mask[:, None], x.shape[:2]), None
        if image.visible is not None and not self.mask_token:
            x, mask, patch_indices = only_visible(x, mask, image.visible)
        if self.num_registers:
            init = param_axes(nn.initializers.normal(0.02), "positions", "embed")
            registers = self.param("registers", init, (self.num_registers, self.trunk.width))
            x = jnp.concatenate(
                [jnp.broadcast_to(registers, (x.shape[0], *registers.shape)).astype(x.dtype), x], 1
            )
            mask = jnp.broadcast_to(image.mask[:, None], x.shape[:2])
            if patch_indices is not None:
                patch_indices = jnp.pad(patch_indices, ((0, 0), (self.num_registers, 0)), constant_values=-1)
        return self.trunk.encode(x, mask, train).replace(patch_indices=patch_indices)
