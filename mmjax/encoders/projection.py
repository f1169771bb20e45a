"""The linear map that ends a stem."""

import jax
from jaxtyping import Float

from mmjax.layers import Einsum


def project(x: Float[jax.Array, "B L P"], width: int, dtype: str) -> Float[jax.Array, "B L {width}"]:
    """Maps patch features to tokens, by a submodule "linear" of the calling module."""
    return Einsum(
        "B L P, P D -> B L D", shape=(x.shape[-1], width), axes=("patch", "embed"), dtype=dtype, name="linear"
    )(x)
