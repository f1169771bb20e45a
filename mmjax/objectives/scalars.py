"""Numbers that objectives learn: temperatures and biases."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.batch import Array
from mmjax.sharding import param_axes


def learned_scale(
    module: nn.Module, initial_temperature: float, most: float | None = None, name: str = "log_scale"
) -> Float[jax.Array, ""]:
    """1 / temperature, at most `most`; its logarithm is what is learned (CLIP, Radford et al. 2021, 2.5)."""
    init = nn.initializers.constant(-math.log(initial_temperature))
    log_scale = module.param(name, param_axes(init), ())
    return jnp.exp(log_scale if most is None else at_most(log_scale, math.log(most)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def at_most(x: Array, most: float) -> jax.Array:
    """``min(x, most)``, with a way back: at the bound a gradient passes if descent along it lowers x.

    CLIP clips the parameter after each update. Here the value is clipped where it is used, so that no
    optimizer has to know. The gradient of min itself is 0 above the bound: a temperature that one update has
    thrown over it would stay there for good. Were every gradient let through, it could go on and on, and take
    as long to return.
    """
    return jnp.minimum(x, most)


def _forward(x, most):
    return at_most(x, most), x


def _backward(most, x, grad):
    return (jnp.where((x < most) | (grad > 0), grad, 0.0),)


at_most.defvjp(_forward, _backward)
