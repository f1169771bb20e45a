"""A linear map defined by an einsum equation."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.batch import Array
from mmjax.ranges import Dtype, Vocab
from mmjax.sharding import param_axes

# N(0, 1 / fan_in), truncated at two standard deviations (LeCun et al. 1998).
KERNEL_INIT = nn.initializers.lecun_normal


class Einsum(nn.Module):
    """Contracts x with a kernel, and adds a bias over the kernel's output axes.

    It replaces flax's DenseGeneral, whose init fails with rank-3 logical names under `jax.set_mesh`.

    equation: e.g. "B L D, D H K -> B L H K", with the letters of `mmjax.batch`.
    shape: the kernel's shape.
    axes: the kernel's logical axes.
    """

    equation: str
    shape: tuple[Vocab, ...]
    axes: tuple[str | None, ...]
    use_bias: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def parameters(self) -> tuple[Array, Array | None]:
        """The kernel, of the shape `shape`, and the bias, of its output axes; float32."""
        _, kernel_axes, output = self.axis_letters()
        is_output = [letter in output for letter in kernel_axes]
        init = KERNEL_INIT(
            in_axis=[i for i, out in enumerate(is_output) if not out],
            out_axis=[i for i, out in enumerate(is_output) if out],
        )
        kernel = self.param("kernel", param_axes(init, *self.axes), self.shape)
        if not self.use_bias:
            return kernel, None
        # The output ends with the kernel's output axes in the kernel's order: "D H K" has a bias "H K".
        bias_axes = [axis for axis, out in zip(self.axes, is_output, strict=True) if out]
        bias_shape = [size for size, out in zip(self.shape, is_output, strict=True) if out]
        return kernel, self.param("bias", param_axes(nn.initializers.zeros, *bias_axes), tuple(bias_shape))

    def axis_letters(self) -> list[str]:
        """The axes of input, kernel and output, one letter per axis."""
        return ["".join(part.split()) for part in self.equation.replace("->", ",").split(",")]

    def __call__(self, x: jax.Array) -> jax.Array:
        inputs, kernel_axes, output = self.axis_letters()
        kernel, bias = self.parameters()
        y = jnp.einsum(f"{inputs},{kernel_axes}->{output}", x.astype(self.dtype), kernel.astype(self.dtype))
        if bias is None:
            return y
        return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


def stacked_projection(projections: Sequence[Einsum], x: jax.Array) -> list[jax.Array]:
    """Applies several projections of equal shapes to x by one matrix product over their stacked kernels.

    One large product uses a device better than several small ones. Under tensor parallelism the gradient of x
    is all-reduced once, not once per projection.
    """
    first = projections[0]
    inputs, kernel_axes, output = first.axis_letters()
    kernels, biases = zip(*(projection.parameters() for projection in projections), strict=True)
    # Z indexes the projections. It precedes the output axes, which are the last of kernel, bias and output.
    out = next(letter for letter in kernel_axes if letter in output)
    equation = f"{inputs},{kernel_axes.replace(out, 'Z' + out)}->{output.replace(out, 'Z' + out)}"
    kernel = jnp.stack(kernels, axis=kernel_axes.index(out))
    y = jnp.einsum(equation, x.astype(first.dtype), kernel.astype(first.dtype))
    if any(bias is not None for bias in biases):
        shape = next(bias.shape for bias in biases if bias is not None)
        bias = jnp.stack([jnp.zeros(shape) if bias is None else bias for bias in biases]).astype(first.dtype)
        y += bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
    axis = output.index(out)
    return [jax.lax.index_in_dim(y, i, axis, keepdims=False) for i in range(len(projections))]
