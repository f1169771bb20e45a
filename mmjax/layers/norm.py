"""Normalisation without running state: every example by itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.sharding import param_axes


class LayerNorm(nn.Module):
    """Ba, Kiros & Hinton 2016 over the last axis; statistics in float32 whatever the compute dtype."""

    epsilon: float = 1e-6
    use_bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*rows D"]) -> Float[jax.Array, "*rows D"]:
        width = x.shape[-1]
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        lead = (1,) * (x.ndim - 1)
        y *= self.param("scale", param_axes(nn.initializers.ones, "embed"), (width,)).reshape(*lead, width)
        if self.use_bias:
            y += self.param("bias", param_axes(nn.initializers.zeros, "embed"), (width,)).reshape(
                *lead, width
            )
        return y.astype(self.dtype)


class GroupNorm(nn.Module):
    """Wu & He 2018, eq. 1 to 4: over all positions of a picture and the channels of each of its groups.

    In the place of batch normalisation, whose statistics would tie an example to the others of its batch and
    to a running state beside the parameters: examples stay independent, a step stays a pure function, and a
    resumed run is the same to the bit. Statistics in float32 whatever the compute dtype.
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B height width C"]) -> Float[jax.Array, "B height width C"]:
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise ValueError(f"{channels} channels do not divide into num_groups={self.num_groups}")
        grouped = x.astype(jnp.float32).reshape(*x.shape[:3], self.num_groups, -1)
        centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
        variance = jnp.square(centred).mean((1, 2, 4), keepdims=True)
        y = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        scale = self.param("scale", param_axes(nn.initializers.ones, "embed"), (channels,))
        bias = self.param("bias", param_axes(nn.initializers.zeros, "embed"), (channels,))
        return (y * scale[None, None, None] + bias[None, None, None]).astype(self.dtype)
