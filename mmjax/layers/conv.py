"""Convolutions. With "same" padding, their default, n positions become ceil(n / stride).

They are computed as one matrix product over windows, or by XLA's convolution. On a CPU XLA's convolution of
few channels with a stride takes several times as long as the matrix product. From 32 channels on, copying the
windows dominates: a 3 x 3 kernel copies its input nine times. On accelerators XLA fuses the copies.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.layers.einsum import Einsum
from mmjax.ranges import Dtype, Kernel, Size
from mmjax.sharding import param_axes


def extract_windows(x: jax.Array, kernel_size: int, stride: int, axis: int, where: str = "same") -> jax.Array:
    """Moves each window along `axis` to the last axis: shape (..., n / stride, ..., kernel_size * C).

    where: see `Conv1d.padding`.
    """
    length = x.shape[axis]
    if where == "valid" and length < kernel_size:
        raise ValueError(f"expected at least one window of {kernel_size} positions, found {length} positions")
    num_windows = (length - kernel_size) // stride + 1 if where == "valid" else -(-length // stride)
    total_padding = max(0, (num_windows - 1) * stride + kernel_size - length)
    before = (kernel_size - 1) // 2 if where == "centred" else total_padding // 2
    padding = [(0, 0)] * x.ndim
    padding[axis] = (before, max(0, total_padding - before))
    x = jnp.pad(x, padding)
    slices = [
        jax.lax.slice_in_dim(x, offset, offset + (num_windows - 1) * stride + 1, stride=stride, axis=axis)
        for offset in range(kernel_size)
    ]
    return jnp.concatenate(slices, axis=-1)


def mask_for_stride(x: jax.Array, mask: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Prepares x "B L ..." with mask "B L" for a convolution of `stride` along L.

    It zeros masked positions, and adds masked ones up to a multiple of the stride. Where the windows of a
    convolution with "same" padding lie then does not depend on L, and so no valid output, which are those of
    `mask[:, ::stride]`, depends on how long an example is padded.
    """
    missing = -x.shape[1] % stride
    mask = jnp.pad(mask, ((0, 0), (0, missing)))
    x = jnp.pad(x, ((0, 0), (0, missing), *((0, 0) for _ in x.shape[2:])))
    return jnp.where(mask.reshape(*mask.shape, *(1 for _ in x.shape[2:])), x, 0), mask


class Conv1d(nn.Module):
    """Convolution over positions: "B L C" -> "B ceil(L / stride) D".

    padding: where the windows lie. "same": zeros are added at both ends, equally many or one more at the end.
      "centred": window i is centred on position i * stride, as torch's is with a padding of half the kernel.
      "valid": no zeros are added, and only whole windows count: (L - kernel_size) // stride + 1.
    """

    width: Size
    kernel_size: Kernel
    stride: Kernel = 1
    padding: Literal["same", "centred", "valid"] = "same"
    use_bias: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B L C"]) -> Float[jax.Array, "B N D"]:
        x = extract_windows(x, self.kernel_size, self.stride, 1, self.padding)
        return Einsum(
            "B L P, P D -> B L D", shape=(x.shape[-1], self.width), axes=("patch", "embed"),
            use_bias=self.use_bias, dtype=self.dtype, name="kernel",
        )(x)  # fmt: skip


class Conv2d(nn.Module):
    """Convolution over an image: "B height width C" -> "B ceil(height / stride) ceil(width / stride) D".

    implementation: how the same function of the same parameters is computed. "windows" is a matrix product;
      "xla" uses the convolution units of accelerators, and on one CPU core takes a half to a quarter of the
      time, forward and backward, for 3 x 3 kernels and 32 to 128 channels (jax 0.10).
    axes: the logical axes of the kernel "P D", where P are the features of a window.
    """

    width: Size
    kernel_size: Kernel
    stride: Kernel = 1
    use_bias: bool = True
    implementation: Literal["windows", "xla"] = "windows"
    axes: tuple[str | None, str | None] = ("patch", "embed")
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B height width C"]) -> Float[jax.Array, "B M N D"]:
        linear = Einsum(
            "B M N P, P D -> B M N D", shape=(self.kernel_size**2 * x.shape[-1], self.width), axes=self.axes,
            use_bias=self.use_bias, dtype=self.dtype, name="kernel",
        )  # fmt: skip
        if self.implementation == "windows":
            for axis in (1, 2):
                x = extract_windows(x, self.kernel_size, self.stride, axis)
            return linear(x)
        kernel, bias = linear.parameters()
        # The features of a window are ordered by column, row, channel; XLA expects row, column, channel.
        kernel = kernel.reshape(self.kernel_size, self.kernel_size, x.shape[-1], self.width).swapaxes(0, 1)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel.astype(self.dtype), (self.stride, self.stride), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y if bias is None else y + bias.astype(self.dtype)[None, None, None]


class DepthwiseConv2d(nn.Module):
    """Convolves each channel with its own square kernel: "B height width C" -> "B height width C".

    It is computed as a sum of shifted products, which XLA fuses. On one CPU core this is 3.5 times as fast as
    XLA's grouped convolution, forward and backward, for 7 x 7 kernels and 64 channels (jax 0.10).
    """

    kernel_size: Kernel
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B height width C"]) -> Float[jax.Array, "B height width C"]:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"a depthwise convolution expects an odd kernel_size, found {self.kernel_size}")
        _, height, width, channels = x.shape
        init = param_axes(nn.initializers.normal(1 / self.kernel_size), None, None, "embed")
        kernel = self.param("kernel", init, (self.kernel_size, self.kernel_size, channels)).astype(self.dtype)
        bias = self.param("bias", param_axes(nn.initializers.zeros, "embed"), (channels,))
        half = self.kernel_size // 2
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (half, half), (half, half), (0, 0)))
        y = jnp.broadcast_to(bias.astype(self.dtype)[None, None, None], x.shape)
        for row in range(self.kernel_size):
            for column in range(self.kernel_size):
                shifted = padded[:, row : row + height, column : column + width]
                y = y + shifted * kernel[row, column][None, None, None]
        return y
