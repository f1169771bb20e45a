"""The two ways to mask patches: leave them out, or replace them by a learned token."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from mmjax.batch import Array


def gather_visible(
    x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"], visible: Int32[jax.Array, "B visible"]
) -> tuple[Float[jax.Array, "B visible D"], Bool[jax.Array, "B visible"], Int32[jax.Array, "B visible"]]:
    """Returns the visible positions, their mask, and their indices. The trunk does not compute the others."""
    return (
        jnp.take_along_axis(x, visible[..., None], axis=1),
        jnp.take_along_axis(mask, visible, axis=1),
        visible,
    )


def insert_mask_token(
    x: Float[jax.Array, "B L D"], visible: Int32[jax.Array, "B visible"] | None, token: Array
) -> Float[jax.Array, "B L D"]:
    """Replaces positions that are not visible by `token` "D". `visible` None: all are visible."""
    if visible is None:
        return x
    is_visible = (visible[:, :, None] == jnp.arange(x.shape[1], dtype=jnp.int32)[None, None, :]).any(1)
    return jnp.where(is_visible[..., None], x, token.astype(x.dtype)[None, None, :])
