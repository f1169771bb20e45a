"""Scalars that objectives learn: temperatures and biases."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.batch import Array
from mmjax.sharding import param_axes


def learned_scale(
    module: nn.Module, initial_temperature: float, max_scale: float | None = None, name: str = "log_scale"
) -> Float[jax.Array, ""]:
    """1 / temperature. The parameter is its logarithm (CLIP, Radford et al. 2021, section 2.5)."""
    init = nn.initializers.constant(-math.log(initial_temperature))
    log_scale = module.param(name, param_axes(init), ())
    return jnp.exp(log_scale if max_scale is None else clip_max(log_scale, math.log(max_scale)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def clip_max(x: Array, maximum: float) -> jax.Array:
    """`min(x, maximum)` of a scalar x. At the bound, a gradient passes only if descent along it lowers x.

    CLIP clips the parameter after each update. Clipping the value where it is used needs no support by the
    optimizer. With the gradient of `min`, which is 0 above the bound, a parameter that one update has moved
    above the bound would stay there for ever. With every gradient passed, it could move ever further away.
    """
    return jnp.minimum(x, maximum)


def _forward(x, maximum):
    return clip_max(x, maximum), x


def _backward(maximum, x, grad):
    return (jnp.where((x < maximum) | (grad > 0), grad, 0.0),)


clip_max.defvjp(_forward, _backward)
