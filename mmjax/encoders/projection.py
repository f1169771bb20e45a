"""The linear map that ends a stem."""

import jax
from jaxtyping import Float

from mmjax.layers import Einsum


def project(
    x: Float[jax.Array, "B L P"], width: int, dtype: str, *, use_bias: bool = True
) -> Float[jax.Array, "B L {width}"]:
    """Maps patch features to tokens, by a submodule "linear" of the calling module."""
    return Einsum(
        "B L P, P D -> B L D", shape=(x.shape[-1], width), axes=("patch", "embed"), use_bias=use_bias,
        dtype=dtype, name="linear",
    )(x)  # fmt: skip
