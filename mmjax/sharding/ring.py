"""Ring exchange: each device visits every other device's rows, holding one remote shard at a time."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax

from mmjax.sharding.annotate import mesh_axes_of

Local = TypeVar("Local")
Circulating = TypeVar("Circulating")


def ring_exchange(
    visit: Callable[[Local, Circulating], tuple[Local, Circulating]], local: Local, circulating: Circulating
) -> tuple[Local, Circulating]:
    """Calls `visit` for each device's shard of `local` with every device's shard of `circulating`.

    The shards of `circulating` move round the ring of all devices that split the batch, and end on the device
    where they started. Outside a mesh, or if the number of rows is not divisible by the number of devices,
    this is `visit(local, circulating)`. Do not differentiate it: autodiff would store the circulating shard
    of every visit. Write the backward pass as a second ring exchange.

    Args:
      visit: returns both shards, updated; the result must not depend on the order of visits.
      local, circulating: pytrees of arrays "act_batch ...".
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    axes = mesh_axes_of("act_batch")
    num_devices = math.prod(sizes[axis] for axis in axes)
    row_counts = {x.shape[0] for x in jax.tree.leaves((local, circulating))}
    if num_devices == 1 or any(count % num_devices for count in row_counts):
        return visit(local, circulating)
    to_next = [(device, (device + 1) % num_devices) for device in range(num_devices)]

    def visit_and_pass_on(shards, _):
        local, circulating = visit(*shards)
        # Arrays that `visit` returns unchanged need no result of it, so XLA may send them while it computes.
        return (local, jax.lax.ppermute(circulating, axes, to_next)), None

    def on_device(local, circulating):
        return jax.lax.scan(visit_and_pass_on, (local, circulating), None, length=num_devices)[0]

    return jax.shard_map(on_device, in_specs=jax.P(axes), out_specs=jax.P(axes))(local, circulating)
