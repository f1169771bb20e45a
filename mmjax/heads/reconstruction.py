"""A prediction for every patch, masked ones included."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int

from mmjax.batch import Array, Encoded
from mmjax.heads.base import Head
from mmjax.layers import Einsum, LearnedPositions, Transformer
from mmjax.ranges import NonNegative, Size
from mmjax.sharding import param_axes


class Reconstruction(Head):
    """The values of each of `num_patches` patches, or the logits of its code: float32 "B L P".

    If the encoder read only some of the patches, their embeddings are scattered to their positions, learned
    mask tokens fill the others, and `trunk` decodes: the asymmetric decoder of MAE (He et al. 2022, section
    3), narrower and less deep than the encoder. Positions that are not patches are not reconstructed.

    trunk: the decoder. None: one linear map, for an encoder that read mask tokens (BEiT, Bao et al. 2022,
      section 2.3).
    """

    num_patches: Size
    patch_dim: Size
    trunk: Transformer | None = None
    position_init_std: NonNegative = 1.0

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B L P"]:
        x, mask = encoded.embeddings, encoded.mask
        length = x.shape[1]
        if self.trunk is None:
            if encoded.patch_indices is not None:
                raise ValueError(
                    f"Reconstruction of {self.stream!r} has no trunk, but the encoder did not read the "
                    "masked patches: give it a `trunk`, or the encoder `mask_token=True`"
                )
        elif x.shape[-1] != self.trunk.width:
            x = Einsum(
                "B L D, D M -> B L M", shape=(x.shape[-1], self.trunk.width), axes=("patch", "embed"),
                dtype=self.trunk.dtype, name="in",
            )(x)  # fmt: skip
        if encoded.patch_indices is None:
            if length < self.num_patches:
                raise ValueError(
                    f"Reconstruction of {self.stream!r} expects num_patches={self.num_patches} positions, or "
                    f"patch_indices of some of them, found {length}"
                )
            x, mask = x[:, length - self.num_patches :], mask[:, length - self.num_patches :]
        if self.trunk is not None:
            token = self.param(
                "mask_token", param_axes(nn.initializers.normal(0.02), "embed"), (self.trunk.width,)
            )
            if encoded.patch_indices is not None:
                x = scatter_patches(x, mask, encoded.patch_indices, token, self.num_patches)
                mask = jnp.broadcast_to(mask.any(1, keepdims=True), x.shape[:2])
            x = LearnedPositions(self.num_patches, self.position_init_std, name="positions")(x)
            x = self.trunk(x, mask)
        return Einsum(
            "B L D, D P -> B L P", shape=(x.shape[-1], self.patch_dim), axes=("embed", "patch"), name="linear"
        )(x)


def scatter_patches(
    x: Float[jax.Array, "B visible D"],
    mask: Bool[jax.Array, "B visible"],
    patch_indices: Int[jax.Array, "B visible"],
    token: Array,
    num_patches: int,
) -> Float[jax.Array, "B {num_patches} D"]:
    """Places each unmasked vector at its patch index, and the vector `token` "D" at the others."""
    patch = jnp.arange(num_patches, dtype=patch_indices.dtype)
    is_source = (patch_indices[:, :, None] == patch[None, None, :]) & mask[:, :, None]
    source = jnp.take_along_axis(x, is_source.argmax(1)[..., None], axis=1)
    return jnp.where(is_source.any(1)[..., None], source, token.astype(x.dtype)[None, None, :])
