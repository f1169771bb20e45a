"""Pooling of positions."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32


def mean_pool(x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"]) -> Float32[jax.Array, "B D"]:
    """The mean over valid positions, in float32; zero for an example without any."""
    weight = mask[..., None].astype(jnp.float32)
    return (x.astype(jnp.float32) * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)
