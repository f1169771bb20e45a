"""A discrete code for every patch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float, Int32

from mmjax.batch import Array, Encoded
from mmjax.heads.base import Head
from mmjax.layers import Einsum, LearnedPositions, Transformer
from mmjax.ranges import Size
from mmjax.sharding import param_axes


@struct.dataclass
class Quantised:
    """The output of PatchQuantiser."""

    codes: Array  # int32 "B L"
    latents: Array  # float32 "B L E", of unit length: the projected encoder output
    code_vectors: Array  # float32 "B L E", of unit length; their gradient goes to the codebook
    patches: Array  # float32 "B L P", decoded from the codes; their gradient goes straight to `latents`
    mask: Array  # bool "B L"
    num_codes: int = struct.field(pytree_node=False)


class PatchQuantiser(Head):
    """The nearest of `num_codes` learned vectors at each position, and the patches decoded from them.

    VQ-VAE (van den Oord et al. 2017, eq. 1 and 2) with low-dimensional vectors of unit length, which keep
    more codes in use (Yu et al. 2022, ViT-VQGAN, section 3.2). The objective VectorQuantised trains it;
    MaskedCodes predicts its codes.

    trunk: the decoder.
    """

    num_codes: Size
    code_dim: Size
    patch_dim: Size
    trunk: Transformer

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Quantised:
        def linear(name: str, x: jax.Array, width: int, axes: tuple[str, str]) -> jax.Array:
            return Einsum("B L D, D E -> B L E", shape=(x.shape[-1], width), axes=axes, name=name)(x)

        latents = normalise(linear("in", encoded.embeddings, self.code_dim, ("embed", "shared")))
        init = param_axes(nn.initializers.normal(1.0), "classes", "shared")
        codebook = normalise(self.param("codebook", init, (self.num_codes, self.code_dim)))
        codes = nearest_code(latents, codebook)
        code_vectors = jnp.take(codebook, codes, axis=0)
        straight_through = latents + jax.lax.stop_gradient(code_vectors - latents)
        x = linear("out", straight_through, self.trunk.width, ("shared", "embed"))
        x = LearnedPositions(x.shape[1], name="positions")(x)
        patches = linear("patches", self.trunk(x, encoded.mask), self.patch_dim, ("embed", "patch"))
        return Quantised(codes, latents, code_vectors, patches, encoded.mask, self.num_codes)


def normalise(x: Array) -> jax.Array:
    """Scales vectors "... E" to unit length; the lower bound keeps the gradient finite at zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def nearest_code(
    latents: Float[jax.Array, "B L E"], codebook: Float[jax.Array, "V E"]
) -> Int32[jax.Array, "B L"]:
    """The index of the nearest code: for unit vectors, the one with the largest inner product."""
    return jnp.einsum("BLE,VE->BLV", latents, codebook).argmax(-1).astype(jnp.int32)
