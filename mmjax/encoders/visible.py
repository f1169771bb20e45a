"""What an encoder does with patches that a view hides from it."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from mmjax.batch import Array


def only_visible(
    x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"], visible: Int32[jax.Array, "B visible"]
) -> tuple[Float[jax.Array, "B visible D"], Bool[jax.Array, "B visible"], Int32[jax.Array, "B visible"]]:
    """The visible positions alone, their mask, and their places: a trunk that never pays for the others."""
    return (
        jnp.take_along_axis(x, visible[..., None], axis=1),
        jnp.take_along_axis(mask, visible, axis=1),
        visible,
    )


def stand_in(
    x: Float[jax.Array, "B L D"], visible: Int32[jax.Array, "B visible"] | None, token: Array
) -> Float[jax.Array, "B L D"]:
    """All positions, those that are not visible as `token`."""
    if visible is None:
        return x
    seen = (visible[:, :, None] == jnp.arange(x.shape[1], dtype=jnp.int32)[None, None, :]).any(1)
    return jnp.where(seen[..., None], x, token.astype(x.dtype)[None, None, :])
