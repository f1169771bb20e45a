"""The mesh of devices, and the shardings of state and batches on it."""

import contextlib
import dataclasses
import math
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmjax.batch import Batch
from mmjax.errors import InputError
from mmjax.ranges import Size
from mmjax.sharding.annotate import axis_rules, logical_specs, to_mesh_sharding, unbox
from mmjax.sharding.axes import MESH_AXES
from mmjax.sharding.rules import Rules
from mmjax.spec import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape(Spec):
    """The number of devices along each axis of the mesh. At most one may be -1: all remaining devices.

    data: splits the batch.
    fsdp: splits the batch, and under ZeRO rules parameters or the optimizer's state too.
    tensor: splits attention heads and hidden units.
    sequence: splits the positions of every stream.
    slices: splits the batch over TPU slices or nodes, whose links are slower than those inside one.
    """

    data: Literal[-1] | Size = -1
    fsdp: Literal[-1] | Size = 1
    tensor: Literal[-1] | Size = 1
    sequence: Literal[-1] | Size = 1
    slices: Literal[-1] | Size = 1

    def __post_init__(self) -> None:
        open_axes = [axis for axis in MESH_AXES if getattr(self, axis) == -1]
        if len(open_axes) > 1:
            raise InputError(
                f"expected -1, all remaining devices, for one mesh axis at most, found {open_axes}"
            )

    def resolve(self, num_devices: int) -> dict[str, int]:
        """{mesh axis: size}, outermost first. Raises InputError unless they use exactly `num_devices`.

        >>> MeshShape(fsdp=4).resolve(8)
        {'slices': 1, 'data': 2, 'fsdp': 4, 'sequence': 1, 'tensor': 1}
        """
        sizes = {axis: getattr(self, axis) for axis in MESH_AXES}
        open_axes = [axis for axis, size in sizes.items() if size == -1]
        for axis in open_axes:
            sizes[axis] = max(1, num_devices // -math.prod(sizes.values()))
        if math.prod(sizes.values()) != num_devices:
            used = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "1"
            raise InputError(
                f"{self} needs {used} = {math.prod(sizes.values())} devices and JAX sees {num_devices}; set "
                "one size to -1 to use all devices, or change the number of devices"
            )
        return sizes

    def make(self, devices=None) -> Mesh:
        """The mesh over `devices` (default: all). Raises InputError if the sizes do not fit these devices."""
        devices = jax.devices() if devices is None else devices
        sizes = self.resolve(len(devices))
        auto = (AxisType.Auto,) * len(MESH_AXES)  # linen fails under Explicit axes
        if self.slices == 1:
            return jax.make_mesh(tuple(sizes.values()), MESH_AXES, axis_types=auto, devices=devices)
        shape_of_slice = MeshShape(**sizes | {"slices": 1})
        slices = [shape_of_slice.make(part).devices[0] for part in group_by_slice(devices, sizes["slices"])]
        return Mesh(np.stack(slices), MESH_AXES, axis_types=auto)


def group_by_slice(devices: list, num_slices: int) -> list[list]:
    """The devices of each slice: by `slice_index`, else by process, else (one process) in equal parts."""
    groups: dict[int, list] = {}
    for device in devices:
        groups.setdefault(getattr(device, "slice_index", device.process_index), []).append(device)
    if len(groups) == 1:  # one machine simulates several slices
        size = len(devices) // num_slices
        return [devices[start : start + size] for start in range(0, len(devices), size)]
    if len(groups) % num_slices:
        raise InputError(
            f"expected slices={num_slices} to divide the {len(groups)} slices or processes that JAX sees: "
            "choose a size that does"
        )
    groups_per_slice = len(groups) // num_slices  # a slice may consist of several processes
    ordered = [groups[index] for index in sorted(groups)]
    starts = range(0, len(ordered), groups_per_slice)
    return [sum(ordered[start : start + groups_per_slice], []) for start in starts]


@contextlib.contextmanager
def using(mesh: Mesh, rules: Rules):
    """A context in which `shard` and `jax.jit` use this mesh and these rules."""
    with jax.set_mesh(mesh), axis_rules(rules.flax_rules()):
        yield


@dataclasses.dataclass(frozen=True)
class MeshFunction:
    """A jitted function that is called and lowered under `using(mesh, rules)`."""

    jitted: jax.stages.Wrapped
    mesh: Mesh
    rules: Rules

    def __call__(self, *args) -> Any:
        with using(self.mesh, self.rules):
            return self.jitted(*args)

    def lower(self, *args) -> jax.stages.Lowered:
        """The program for arguments of these shapes, which may be ShapeDtypeStructs."""
        with using(self.mesh, self.rules):
            return self.jitted.lower(*args)


def array_shardings(boxed, mesh: Mesh, rules: Rules):
    """The shardings of an abstract pytree in flax's boxes, which name the axes of its arrays.

    Raises InputError with a line for each array that has a dimension not divisible by its mesh axes.
    """
    specs = logical_specs(boxed)
    for spec in jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec)):
        if isinstance(spec, PartitionSpec):
            rules.check_no_collision(tuple(spec))
    shardings = to_mesh_sharding(specs, mesh, rules.flax_rules())
    leaves = jax.tree.leaves_with_path(unbox(boxed))
    problems = []
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        problems += _indivisible_dimension(name, leaf.shape, sharding)
    if problems:
        heading = [f"{len(problems)} arrays do not fit the mesh:"] if len(problems) > 1 else []
        raise InputError("\n  ".join([*heading, *problems]))
    return shardings


def _indivisible_dimension(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> list[str]:
    """A message about the first dimension that is not divisible by its mesh axes; [] if there is none."""
    for dimension, mesh_axes in enumerate(sharding.spec):
        axes = () if mesh_axes is None else (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
        parts = math.prod(sharding.mesh.shape[axis] for axis in axes)
        if shape[dimension] % parts:
            return [
                f"{name} has shape {shape}: dimension {dimension} of size {shape[dimension]} is not "
                f"divisible by {parts}, the size of mesh axes {list(axes)}; change that size, the mesh or "
                "the rules"
            ]
    return []


def batch_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    """The sharding of batch arrays: the leading axis is split as "act_batch", the others are replicated."""
    return NamedSharding(mesh, PartitionSpec(rules.mesh_axes("act_batch") or None))


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The global rows that this process must load: int "rows", ascending.

    They depend on the sharding and not on the process index: if a model axis spans several processes, these
    must load the same rows. Different rows would build a wrong batch without an error.
    """
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in indices]))


def to_global(batch: Batch, sharding: NamedSharding, batch_size: int) -> Batch:
    """Global arrays "batch_size ..." on the mesh, of which each process gives its own rows (NumPy)."""

    def place(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, x, (batch_size, *x.shape[1:]))

    return jax.tree.map(place, batch)
