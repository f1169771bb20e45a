"""A linear map whose equation, shape and axes stand side by side."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.batch import Array
from mmjax.sharding import param_axes

# N(0, 1/fan_in), truncated at two standard deviations: LeCun 1998.
KERNEL_INIT = nn.initializers.lecun_normal


class Einsum(nn.Module):
    """``x`` contracted with one kernel, and a bias over the kernel's output axes.

    Equation, e.g. ``"B L D, D H K -> B L H K"``; letters as in `mmjax.batch`. Our own, because flax's
    DenseGeneral fails at init with rank-3 logical names under `jax.set_mesh`.
    """

    equation: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    use_bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def parameters(self) -> tuple[Array, Array | None]:
        """Kernel and bias, float32."""
        _, kernel_axes, output = self.letters()
        is_output = [letter in output for letter in kernel_axes]
        init = KERNEL_INIT(
            in_axis=[i for i, out in enumerate(is_output) if not out],
            out_axis=[i for i, out in enumerate(is_output) if out],
        )
        kernel = self.param("kernel", param_axes(init, *self.axes), self.shape)
        if not self.use_bias:
            return kernel, None
        # A kernel's axes come out in its own order, and last: "D H K" adds a bias over "H K".
        bias_axes = [axis for axis, out in zip(self.axes, is_output, strict=True) if out]
        bias_shape = [size for size, out in zip(self.shape, is_output, strict=True) if out]
        return kernel, self.param("bias", param_axes(nn.initializers.zeros, *bias_axes), tuple(bias_shape))

    def letters(self) -> list[str]:
        """The axes of input, kernel and output, a letter each."""
        return ["".join(part.split()) for part in self.equation.replace("->", ",").split(",")]

    def __call__(self, x: jax.Array) -> jax.Array:
        inputs, kernel_axes, output = self.letters()
        kernel, bias = self.parameters()
        y = jnp.einsum(f"{inputs},{kernel_axes}->{output}", x.astype(self.dtype), kernel.astype(self.dtype))
        if bias is None:
            return y
        return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


def stacked_projection(maps: Sequence[Einsum], x: jax.Array) -> list[jax.Array]:
    """What each of several maps of one kind makes of ``x``, by one product over their stacked kernels.

    One product fills a device better than several. And where devices hold parts of the outputs (tensor
    parallelism), the gradient of ``x`` is summed over them once, not once a map.
    """
    first = maps[0]
    inputs, kernel_axes, output = first.letters()
    kernels, biases = zip(*(each.parameters() for each in maps), strict=True)
    # Z, the map, stands before the axes that come out, which are last in kernel, bias and output.
    out = next(letter for letter in kernel_axes if letter in output)
    equation = f"{inputs},{kernel_axes.replace(out, 'Z' + out)}->{output.replace(out, 'Z' + out)}"
    kernel = jnp.stack(kernels, axis=kernel_axes.index(out))
    y = jnp.einsum(equation, x.astype(first.dtype), kernel.astype(first.dtype))
    if first.use_bias:
        bias = jnp.stack(biases).astype(first.dtype)
        y += bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
    axis = output.index(out)
    return [jax.lax.index_in_dim(y, i, axis, keepdims=False) for i in range(len(maps))]
