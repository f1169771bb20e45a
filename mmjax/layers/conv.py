"""Convolutions, as one matrix product over windows or as XLA's own.

On a CPU a small strided convolution of few channels costs several times the matrix product of the same
arithmetic; on an accelerator XLA fuses the slices. With 32 channels and more it is the windows that cost: a
3 x 3 kernel copies its input nine times. Padding is "same": an input of n positions gives ceil(n / stride).
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.layers.einsum import Einsum
from mmjax.sharding import param_axes


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
    """``"B height width C" -> "B ceil(height / stride) ceil(width / stride) D"``.

    `by` changes how it is computed, not what, nor the parameters: "windows", or "xla", two to four times as
    fast, forward and backward, at 3 x 3 and 32 to 128 channels on one core (jax 0.10), and what accelerators
    have units for. `axes` are those of the kernel, windows by channels.
    """

    width: int
    size: int
    stride: int = 1
    use_bias: bool = True
    by: Literal["windows", "xla"] = "windows"
    axes: tuple[str | None, str | None] = ("patch", "embed")
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B height width C"]) -> Float[jax.Array, "B M N D"]:
        linear = Einsum(
            "B M N P, P D -> B M N D",
            shape=(self.size**2 * x.shape[-1], self.width),
            axes=self.axes,
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="kernel",
        )
        if self.by == "windows":
            return linear(windows(windows(x, self.size, self.stride, axis=1), self.size, self.stride, axis=2))
        kernel, bias = linear.parameters()
        # Of a window's features the column varies slowest, then the row.
        kernel = kernel.reshape(self.size, self.size, x.shape[-1], self.width).swapaxes(0, 1)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel.astype(self.dtype), (self.stride, self.stride), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y if bias is None else y + bias.astype(self.dtype)[None, None, None]


class DepthwiseConv2d(nn.Module):
    """Each channel by a ``size x size`` kernel of its own: ``"B height width C" -> "B height width C"``.

    A sum of shifted products, which XLA fuses into one pass: on one core 3.5 times as fast as its grouped
    convolution, forward and backward, at 7 x 7 and 64 channels (jax 0.10).
    """

    size: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B height width C"]) -> Float[jax.Array, "B height width C"]:
        if self.size % 2 == 0:
            raise ValueError(f"a depthwise convolution expects an odd size, found {self.size}")
        _, height, width, channels = x.shape
        init = param_axes(nn.initializers.normal(1 / self.size), None, None, "embed")
        kernel = self.param("kernel", init, (self.size, self.size, channels)).astype(self.dtype)
        bias = self.param("bias", param_axes(nn.initializers.zeros, "embed"), (channels,))
        half = self.size // 2
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (half, half), (half, half), (0, 0)))
        y = jnp.broadcast_to(bias.astype(self.dtype)[None, None, None], x.shape)
        for row in range(self.size):
            for column in range(self.size):
                shifted = padded[:, row : row + height, column : column + width]
                y = y + shifted * kernel[row, column][None, None, None]
        return y
