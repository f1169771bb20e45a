"""A linear map whose equation, shape and axes stand side by side."""

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs, kernel_axes, output = (part.split() for part in self.equation.replace("->", ",").split(","))
        is_output = [letter in output for letter in kernel_axes]
        init = KERNEL_INIT(
            in_axis=[i for i, out in enumerate(is_output) if not out],
            out_axis=[i for i, out in enumerate(is_output) if out],
        )
        kernel = self.param("kernel", param_axes(init, *self.axes), self.shape)
        equation = f"{''.join(inputs)},{''.join(kernel_axes)}->{''.join(output)}"
        y = jnp.einsum(equation, x.astype(self.dtype), kernel.astype(self.dtype))
        if not self.use_bias:
            return y
        # A kernel's axes come out in its own order, and last: "D H K" adds a bias over "H K".
        bias_axes = [axis for axis, out in zip(self.axes, is_output, strict=True) if out]
        bias_shape = [size for size, out in zip(self.shape, is_output, strict=True) if out]
        bias = self.param("bias", param_axes(nn.initializers.zeros, *bias_axes), tuple(bias_shape))
        return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
