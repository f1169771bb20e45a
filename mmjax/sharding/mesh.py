"""The mesh of devices, and how state and batches lie on it."""

import contextlib
import dataclasses
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmjax.batch import Batch
from mmjax.errors import InputError
from mmjax.sharding.annotate import axis_rules, logical_specs, to_mesh_sharding, unbox
from mmjax.sharding.axes import MESH_AXES
from mmjax.sharding.rules import Rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
    """Devices along each axis of the mesh; at most one may be -1, which takes all that are left.

    data: copies of the model, each with rows of its own.
    fsdp: as data, but copies may share out what they hold (ZeRO).
    tensor: attention heads and hidden units.
    sequence: positions of every stream.
    slices: several TPU slices or nodes, whose links are slower than those within; as data.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1
    slices: int = 1

    def resolve(self, num_devices: int) -> dict[str, int]:
        """{mesh axis: size}, outermost first. Raises InputError if not exactly `num_devices` are used.

        >>> MeshShape(fsdp=4).resolve(8)
        {'slices': 1, 'data': 2, 'fsdp': 4, 'sequence': 1, 'tensor': 1}
        """
        sizes = {axis: getattr(self, axis) for axis in MESH_AXES}
        open_axes = [axis for axis, size in sizes.items() if size == -1]
        if any(size == 0 or size < -1 for size in sizes.values()) or len(open_axes) > 1:
            raise InputError(f"{self}: sizes are positive, and at most one is -1")
        for axis in open_axes:
            sizes[axis] = max(1, num_devices // -math.prod(sizes.values()))
        if math.prod(sizes.values()) != num_devices:
            used = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "1"
            raise InputError(
                f"{self} needs {used} = {math.prod(sizes.values())} devices and JAX sees {num_devices}; set "
                "one size to -1 to fill, or change the number of devices"
            )
        return sizes

    def make(self, devices=None) -> Mesh:
        """The mesh over `devices` (default: all). Its axes are Auto: linen asserts under Explicit ones.

        Raises:
          InputError: sizes that do not fit, or slices that do not coincide with the hardware's.
        """
        devices = jax.devices() if devices is None else devices
        sizes = self.resolve(len(devices))
        auto = (AxisType.Auto,) * len(MESH_AXES)
        if self.slices == 1:
            return jax.make_mesh(tuple(sizes.values()), MESH_AXES, axis_types=auto, devices=devices)
        within = MeshShape(**{axis: size for axis, size in sizes.items()} | {"slices": 1})
        parts = [within.make(part).devices[0] for part in hardware_slices(devices, sizes["slices"])]
        return Mesh(np.stack(parts), MESH_AXES, axis_types=auto)


def hardware_slices(devices: list, number: int) -> list[list]:
    """The devices of each slice: as the hardware says, else by process, else (one process) in equal runs."""
    groups: dict[int, list] = {}
    for device in devices:
        groups.setdefault(getattr(device, "slice_index", device.process_index), []).append(device)
    if len(groups) == 1:  # one machine that plays several
        size = len(devices) // number
        return [devices[start : start + size] for start in range(0, len(devices), size)]
    if len(groups) % number:
        raise InputError(
            f"expected slices={number} to divide the {len(groups)} slices or processes that JAX sees: choose "
            "a size that does"
        )
    together = len(groups) // number  # a slice may hold several processes
    ordered = [groups[index] for index in sorted(groups)]
    return [sum(ordered[i : i + together], []) for i in range(0, len(ordered), together)]


@contextlib.contextmanager
def using(mesh: Mesh, rules: Rules):
    """Inside, `shard()` and `jax.jit` mean this mesh and these rules."""
    with jax.set_mesh(mesh), axis_rules(rules.pairs()):
        yield


def array_shardings(boxed, mesh: Mesh, rules: Rules):
    """Shardings of an abstract pytree whose arrays are in flax's boxes, which name their axes.

    Raises:
      InputError: dimensions that their mesh axes do not divide; a line for each array, with size and axes.
    """
    specs = logical_specs(boxed)
    for spec in jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec)):
        if isinstance(spec, PartitionSpec):
            rules.refuse_collision(tuple(spec))
    shardings = to_mesh_sharding(specs, mesh, rules.pairs())
    leaves = jax.tree.leaves_with_path(unbox(boxed))
    misfits = []
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        misfits += _misfit(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, sharding)
    if misfits:
        several = [f"{len(misfits)} arrays do not fit the mesh:"] if len(misfits) > 1 else []
        raise InputError("\n  ".join([*several, *misfits]))
    return shardings


def _misfit(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> list[str]:
    """The first dimension that its mesh axes do not divide, in words; empty if there is none."""
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
    """The leading axis of every batch array is split; everything else is whole."""
    return NamedSharding(mesh, PartitionSpec(rules.mesh_axes("act_batch") or None))


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The global rows that this process must load: int ``"rows"``, ascending.

    Derived from the sharding and not from the process index: where a model axis spans processes, they must
    load the same rows, and loading different ones would build a wrong batch without an error.
    """
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in indices]))


def to_global(batch: Batch, sharding: NamedSharding, batch_size: int) -> Batch:
    """This process's rows, NumPy, as global arrays on the mesh."""

    def place(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, x, (batch_size, *x.shape[1:]))

    return jax.tree.map(place, batch)
