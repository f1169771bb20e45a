"""Layer normalisation."""

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
