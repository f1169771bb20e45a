"""Convolutions written as one matrix product over windows.

On a CPU a small strided convolution costs several times the matrix product of the same arithmetic; on an
accelerator XLA fuses the slices. Padding is "same": an input of n positions gives ceil(n / stride).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.layers.einsum import Einsum


def windows(x: jax.Array, size: int, stride: int, axis: int) -> jax.Array:
    """Every window of `size` along `axis`, laid out on the last: ``(..., n / stride, ..., size * C)``."""
    num = -(-x.shape[axis] // stride)
    missing = max(0, (num - 1) * stride + size - x.shape[axis])
    padding = [(0, 0)] * x.ndim
    padding[axis] = (missing // 2, missing - missing // 2)
    x = jnp.pad(x, padding)
    slices = [
        jax.lax.slice_in_dim(x, offset, offset + (num - 1) * stride + 1, stride=stride, axis=axis)
        for offset in range(size)
    ]
    return jnp.concatenate(slices, axis=-1)


class Conv1d(nn.Module):
    """``"B L C" -> "B ceil(L / stride) D"``."""

    width: int
    size: int
    stride: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B L C"]) -> Float[jax.Array, "B N D"]:
        x = windows(x, self.size, self.stride, axis=1)
        return Einsum(
            "B L P, P D -> B L D",
            shape=(x.shape[-1], self.width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="kernel",
        )(x)


class Conv2d(nn.Module):
    """``"B height width C" -> "B ceil(height / stride) ceil(width / stride) D"``."""

    width: int
    size: int
    stride: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B height width C"]) -> Float[jax.Array, "B M N D"]:
        x = windows(windows(x, self.size, self.stride, axis=1), self.size, self.stride, axis=2)
        return Einsum(
            "B M N P, P D -> B M N D",
            shape=(x.shape[-1], self.width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="kernel",
        )(x)
