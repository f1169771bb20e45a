"""A code for every patch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float, Int32

from mmjax.batch import Array, Encoded
from mmjax.heads.base import Head
from mmjax.layers import Einsum, LearnedPositions, Transformer
from mmjax.sharding import param_axes


@struct.dataclass
class Quantised:
    """What PatchQuantiser makes of a stream."""

    codes: Array  # int32 "B L"
    found: Array  # float32 "B L E", of unit length: what the encoder says
    nearest: Array  # float32 "B L E", of unit length: the code's vector; its gradient goes to the codebook
    patches: Array  # float32 "B L P", decoded from the codes; its gradient passes straight to `found`
    mask: Array  # bool "B L"
    num_codes: int = struct.field(pytree_node=False)


class PatchQuantiser(Head):
    """The nearest of `num_codes` learned vectors at each position, and the patches decoded from these.

    VQ-VAE (van den Oord et al. 2017, eq. 1 and 2) with few-dimensional vectors of unit length, which keep
    more codes in use (Yu et al. 2022, ViT-VQGAN, section 3.2). `trunk` decodes. VectorQuantised is the
    objective that teaches it, and MaskedCodes one that learns from its codes.
    """

    num_codes: int
    code_dim: int
    patch_dim: int
    trunk: Transformer

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Quantised:
        def linear(name: str, x: jax.Array, width: int, axes: tuple[str, str]) -> jax.Array:
            return Einsum("B L D, D E -> B L E", shape=(x.shape[-1], width), axes=axes, name=name)(x)

        found = unit(linear("in", encoded.embeddings, self.code_dim, ("embed", "shared")))
        init = param_axes(nn.initializers.normal(1.0), "classes", "shared")
        codebook = unit(self.param("codebook", init, (self.num_codes, self.code_dim)))
        codes = nearest_code(found, codebook)
        nearest = jnp.take(codebook, codes, axis=0)
        straight = found + jax.lax.stop_gradient(nearest - found)
        x = linear("out", straight, self.trunk.width, ("shared", "embed"))
        x = LearnedPositions(x.shape[1], name="positions")(x)
        patches = linear("patches", self.trunk(x, encoded.mask), self.patch_dim, ("embed", "patch"))
        return Quantised(codes, found, nearest, patches, encoded.mask, self.num_codes)


def unit(x: Array) -> jax.Array:
    """Of length one; the floor keeps the gradient of a zero finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def nearest_code(
    found: Float[jax.Array, "B L E"], codebook: Float[jax.Array, "V E"]
) -> Int32[jax.Array, "B L"]:
    """Of unit vectors the nearest is the one with the largest cosine."""
    return jnp.einsum("BLE,VE->BLV", found, codebook).argmax(-1).astype(jnp.int32)
