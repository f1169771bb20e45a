"""Logical axes on parameters and activations. Only this module calls flax's logical-axis API.

Flax replicates an axis whose name it does not know, without an error; so every name is checked here.
"""

import functools
import logging
import math
from collections.abc import Callable

import flax.linen as nn
import jax

from mmjax.batch import Array
from mmjax.errors import InputError
from mmjax.sharding.axes import KNOWN_AXES

log = logging.getLogger(__name__)


def check_axes(axes: tuple[str | None, ...]) -> None:
    """Raises InputError for a name that `axes.py` does not list."""
    for axis in axes:
        if axis is not None and axis not in KNOWN_AXES:
            raise InputError(f"unknown logical axis {axis!r}; known axes: {sorted(KNOWN_AXES)}")


def param_axes(init: Callable, *axes: str | None) -> Callable:
    """An initializer whose parameter carries these axis names. None: an axis that is never split."""
    check_axes(axes)
    return nn.with_logical_partitioning(init, axes)


def shard(x: Array, *axes: str | None) -> Array:
    """Constrains the layout of an activation "..." to the rules; does nothing outside a mesh.

    XLA pads a dimension that is not divisible by its mesh axes; this logs one warning.
    """
    check_axes(axes)
    if len(axes) != x.ndim:
        raise InputError(f"shard() got {len(axes)} axes {axes} for an array of shape {x.shape}")
    sizes = jax.sharding.get_abstract_mesh().shape
    for size, axis in zip(x.shape, axes, strict=True):
        mesh_axes = mesh_axes_of(axis)
        parts = math.prod(sizes[mesh_axis] for mesh_axis in mesh_axes)
        if size % parts:
            warn_padded(axis, size, mesh_axes, parts)
    return nn.with_logical_constraint(x, axes)


def mesh_axes_of(axis: str | None) -> tuple[str, ...]:
    """The axes of the current mesh that split logical axis `axis`, outermost first; () outside a mesh."""
    sizes, rule = jax.sharding.get_abstract_mesh().shape, dict(nn.get_logical_axis_rules()).get(axis)
    axes = (rule,) if isinstance(rule, str) else tuple(rule or ())
    return tuple(mesh_axis for mesh_axis in axes if sizes.get(mesh_axis, 1) > 1)


def map_batch_shards(function: Callable, x: Array, *, check_vma: bool = True) -> Array:
    """Applies `function` to each device's examples alone, so that XLA does not gather the batch.

    XLA of jax 0.10 does so for an FFT. Outside a mesh, or if the rows of x "act_batch ..." are not divisible
    by the number of shards, this is `function(x)`. check_vma: as in `jax.shard_map`; the check rejects loops
    whose initial state is the same on all devices and whose later states are not.
    """
    sizes, axes = jax.sharding.get_abstract_mesh().shape, mesh_axes_of("act_batch")
    if not axes or x.shape[0] % math.prod(sizes[axis] for axis in axes):
        return function(x)
    return jax.shard_map(function, in_specs=jax.P(axes), out_specs=jax.P(axes), check_vma=check_vma)(x)


@functools.cache
def warn_padded(axis: str, size: int, mesh_axes: tuple[str, ...], parts: int) -> None:
    """Warns once for each combination of arguments that devices compute padding."""
    log.warning(
        "activations: the axis %s of size %d is not divisible by %d, the size of mesh axes %s: padded to %d",
        axis, size, parts, list(mesh_axes), -(-size // parts) * parts,
    )  # fmt: skip


def gather_table(table: Array, row_axis: str | None = "vocab") -> Array:
    """Gathers a table, a parameter with the axes (row_axis, "embed"), before its rows are looked up.

    If a table is split along the width, XLA otherwise gathers the looked-up rows of the whole batch, and
    their gradient in the backward pass. This gathers the table, and sums its gradient as a table.
    """
    gathered_axes = (row_axis and f"act_{row_axis}", "act_embed")

    @jax.custom_vjp
    def gather(table):
        return shard(table, *gathered_axes)

    def backward(_, grad):
        return (shard(shard(grad, *gathered_axes), row_axis, "embed"),)

    gather.defvjp(lambda table: (gather(table), None), backward)
    return gather(table)


def unbox(boxed):
    """The pytree without flax's boxes. Unlike `nn.meta.unbox` it also works on abstract values."""

    def is_box(x) -> bool:
        return isinstance(x, nn.meta.AxisMetadata)

    return jax.tree.map(lambda x: x.unbox(apply_constraint=False) if is_box(x) else x, boxed, is_leaf=is_box)


axis_rules = nn.logical_axis_rules
logical_specs = nn.get_partition_spec  # of a pytree whose arrays are in flax's boxes
to_mesh_sharding = nn.logical_to_mesh_sharding
LAYERS_METADATA = {nn.PARTITION_NAME: "layers"}
