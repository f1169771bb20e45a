"""Logical axes on parameters and activations: the only callers of flax's logical-axis API.

Flax is silent about a misspelt axis (it replicates), so every name is checked here.
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
    """Names the axes of the parameter that `init` makes; None is an axis that is never split."""
    check_axes(axes)
    return nn.with_logical_partitioning(init, axes)


def shard(x: Array, *axes: str | None) -> Array:
    """Constrains an activation's layout; does nothing outside a mesh.

    A size that its mesh axes do not divide is padded by XLA, and told once.
    """
    check_axes(axes)
    if len(axes) != x.ndim:
        raise InputError(f"shard() got {len(axes)} axes {axes} for an array of shape {x.shape}")
    sizes = jax.sharding.get_abstract_mesh().shape
    for size, axis in zip(x.shape, axes, strict=True):
        mesh_axes = mesh_axes_of(axis)
        parts = math.prod(sizes[mesh_axis] for mesh_axis in mesh_axes)
        if size % parts:
            tell_padded(axis, size, mesh_axes, parts)
    return nn.with_logical_constraint(x, axes)


def mesh_axes_of(axis: str | None) -> tuple[str, ...]:
    """The axes of the mesh at hand that split logical axis `axis`, outermost first; empty outside a mesh."""
    sizes, rule = jax.sharding.get_abstract_mesh().shape, dict(nn.get_logical_axis_rules()).get(axis)
    axes = (rule,) if isinstance(rule, str) else tuple(rule or ())
    return tuple(mesh_axis for mesh_axis in axes if sizes.get(mesh_axis, 1) > 1)


def map_batch_shards(function: Callable, x: Array, *, check: bool = True) -> Array:
    """`function(x)`, where each device computes its own examples of ``"act_batch ..."``.

    For what XLA would gather all examples for (the FFT, with jax 0.10). Where devices do not divide the
    examples, and outside a mesh, it is just `function(x)`. check: JAX's own, of what differs between devices;
    it refuses loops of other libraries whose state begins the same on all of them.
    """
    sizes, axes = jax.sharding.get_abstract_mesh().shape, mesh_axes_of("act_batch")
    if not axes or x.shape[0] % math.prod(sizes[axis] for axis in axes):
        return function(x)
    return jax.shard_map(function, in_specs=jax.P(axes), out_specs=jax.P(axes), check_vma=check)(x)


@functools.cache
def tell_padded(axis: str, size: int, mesh_axes: tuple[str, ...], parts: int) -> None:
    """Warns, once for each combination, that devices will compute what nobody reads."""
    log.warning(
        "activations: the axis %s of size %d is not divisible by %d, the size of mesh axes %s: padded to %d",
        axis, size, parts, list(mesh_axes), -(-size // parts) * parts,
    )  # fmt: skip


def gather_table(table: Array, rows: str | None = "vocab") -> Array:
    """A parameter ``(rows, "embed")`` with its rows whole, for looking them up.

    Rows that are split along the width would make XLA gather, for the whole batch, what was looked up, and in
    the backward pass its gradient. Here the table is gathered, and its gradient summed as a table.
    """

    @jax.custom_vjp
    def gather(table):
        return shard(table, rows and f"act_{rows}", "act_embed")

    def split(_, grad):
        return (shard(shard(grad, rows and f"act_{rows}", "act_embed"), rows, "embed"),)

    gather.defvjp(lambda table: (gather(table), None), split)
    return gather(table)


def logical_specs(boxed):
    """Logical PartitionSpecs of a pytree that still carries flax's boxes."""
    return nn.get_partition_spec(boxed)


def unbox(boxed):
    """The pytree without flax's boxes. Unlike flax's own, adds no constraint, so abstract values will do."""

    def is_box(x) -> bool:
        return isinstance(x, nn.meta.AxisMetadata)

    return jax.tree.map(lambda x: x.unbox(apply_constraint=False) if is_box(x) else x, boxed, is_leaf=is_box)


axis_rules = nn.logical_axis_rules
to_mesh_sharding = nn.logical_to_mesh_sharding
LAYERS_METADATA = {nn.PARTITION_NAME: "layers"}
