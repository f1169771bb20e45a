"""Normalisation per example, without running statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.ranges import Dtype, Positive, Size
from mmjax.sharding import param_axes


class LayerNorm(nn.Module):
    """Normalises the last axis (Ba, Kiros & Hinton 2016), with statistics in float32 for every dtype."""

    epsilon: Positive = 1e-6
    use_bias: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*rows D"]) -> Float[jax.Array, "*rows D"]:
        width = x.shape[-1]
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        lead = (1,) * (x.ndim - 1)
        y *= self.param("scale", param_axes(nn.initializers.ones, "embed"), (width,)).reshape(*lead, width)
        if self.use_bias:
            bias = self.param("bias", param_axes(nn.initializers.zeros, "embed"), (width,))
            y += bias.reshape(*lead, width)
        return y.astype(self.dtype)


class GroupNorm(nn.Module):
    """Normalises each group of channels over all positions of an image (Wu & He 2018, eq. 1 to 4).

    It replaces batch normalisation, whose statistics depend on the other examples of a batch and on running
    averages beside the parameters. Statistics are float32 for every dtype.
    """

    num_groups: Size = 32
    epsilon: Positive = 1e-5
    dtype: Dtype = "float32"

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
