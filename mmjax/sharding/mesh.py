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
    """Devices along each axis of the mesh; at most one may be -1, which takes all that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def resolve(self, num_devices: int) -> tuple[int, int, int]:
        """Sizes of (data, fsdp, tensor). Raises InputError if they do not use exactly `num_devices`.

        >>> MeshShape(fsdp=4).resolve(8)
        (2, 4, 1)
        """
        sizes = [self.data, self.fsdp, self.tensor]
        if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
            raise InputError(f"{self}: sizes are positive, and at most one is -1")
        if -1 in sizes:
            sizes[sizes.index(-1)] = max(1, num_devices // -math.prod(sizes))
        if math.prod(sizes) != num_devices:
            raise InputError(
                f"{self} needs {' x '.join(map(str, sizes))} = {math.prod(sizes)} devices and JAX sees "
                f"{num_devices}; set one size to -1 to fill, or change the number of devices"
            )
        return sizes[0], sizes[1], sizes[2]

    def make(self, devices=None) -> Mesh:
        """The mesh over `devices` (default: all). Its axes are Auto: linen asserts under Explicit ones."""
        devices = jax.devices() if devices is None else devices
        sizes = self.resolve(len(devices))
        return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices)


@contextlib.contextmanager
def using(mesh: Mesh, rules: Rules):
    """Inside, `shard()` and `jax.jit` mean this mesh and these rules."""
    with jax.set_mesh(mesh), axis_rules(rules.pairs()):
        yield


def state_shardings(abstract_state, mesh: Mesh, rules: Rules):
    """Shardings of a boxed, abstract state: optimizer moments inherit those of their parameters.

    Raises:
      InputError: a dimension that its mesh axes do not divide; names the array, the size and the axes.
    """
    specs = logical_specs(abstract_state)
    for spec in jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec)):
        if isinstance(spec, PartitionSpec):
            rules.refuse_collision(tuple(spec))
    shardings = to_mesh_sharding(specs, mesh, rules.pairs())
    leaves = jax.tree.leaves_with_path(unbox(abstract_state))
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        _refuse_uneven(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, sharding)
    return shardings


def _refuse_uneven(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> None:
    for dimension, mesh_axes in enumerate(sharding.spec):
        axes = () if mesh_axes is None else (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
        parts = math.prod(sharding.mesh.shape[axis] for axis in axes)
        if shape[dimension] % parts:
            raise InputError(
                f"{name} has shape {shape}: dimension {dimension} of size {shape[dimension]} is not "
                f"divisible by {parts}, the size of mesh axes {list(axes)}; change that size, the mesh or "
                "the rules"
            )


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
