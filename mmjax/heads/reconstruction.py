"""A guess at every patch, the hidden ones too."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Array, Encoded
from mmjax.heads.base import Head
from mmjax.layers import Einsum, LearnedPositions, Transformer
from mmjax.sharding import param_axes


class Reconstruction(Head):
    """The values of each of `num_patches` patches, or logits of its code: float32 ``"B L P"``.

    Where the encoder saw only some patches, these are put in their places among learned mask tokens,
    positions are added, and `trunk` reads them: the asymmetric decoder of MAE (He et al. 2022, section 3),
    narrower and less deep than the encoder. Without a trunk it is one linear map, for an encoder that saw
    mask tokens (BEiT, Bao et al. 2022, section 2.3). Positions that are no patches are not reconstructed.
    """

    num_patches: int
    patch_dim: int
    trunk: Transformer | None = None
    position_scale: float = 1.0

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B L P"]:
        x, mask = encoded.embeddings, encoded.mask
        found = x.shape[1]
        if self.trunk is None:
            if encoded.patch_indices is not None:
                raise ValueError(
                    f"Reconstruction of {self.stream!r} is one linear map, and the encoder was not shown the "
                    "hidden patches: give it a `trunk`, or the encoder `mask_token=True`"
                )
        elif x.shape[-1] != self.trunk.width:
            x = Einsum(
                "B L D, D M -> B L M",
                shape=(x.shape[-1], self.trunk.width),
                axes=("patch", "embed"),
                dtype=self.trunk.dtype,
                name="in",
            )(x)
        if encoded.patch_indices is None:
            if found < self.num_patches:
                raise ValueError(
                    f"Reconstruction of {self.stream!r} expects num_patches={self.num_patches} positions, or "
                    f"places of some of them, found {found}"
                )
            x, mask = x[:, found - self.num_patches :], mask[:, found - self.num_patches :]
        if self.trunk is not None:
            token = self.param(
                "mask_token", param_axes(nn.initializers.normal(0.02), "embed"), (self.trunk.width,)
            )
            if encoded.patch_indices is not None:
                x = put_in_place(x, mask, encoded.patch_indices, token, self.num_patches)
                mask = jnp.broadcast_to(mask.any(1, keepdims=True), x.shape[:2])
            x = LearnedPositions(self.num_patches, self.position_scale, name="positions")(x)
            x = self.trunk(x, mask)
        return Einsum(
            "B L D, D P -> B L P", shape=(x.shape[-1], self.patch_dim), axes=("embed", "patch"), name="linear"
        )(x)


def put_in_place(x: Array, mask: Array, patch_indices: Array, token: Array, num_patches: int) -> jax.Array:
    """``"B visible D" -> "B L D"``: each vector at its place, `token` at the places that have none."""
    patch = jnp.arange(num_patches, dtype=patch_indices.dtype)
    here = (patch_indices[:, :, None] == patch[None, None, :]) & mask[:, :, None]
    source = jnp.take_along_axis(x, here.argmax(1)[..., None], axis=1)
    return jnp.where(here.any(1)[..., None], source, token.astype(x.dtype)[None, None, :])
