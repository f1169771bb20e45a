"""Everybody's rows meet everybody else's, and no device ever holds more than its own and one guest's."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax

from mmjax.sharding.annotate import mesh_axes_of

Home = TypeVar("Home")
Guests = TypeVar("Guests")


def ring_exchange(
    meet: Callable[[Home, Guests], tuple[Home, Guests]], home: Home, guests: Guests
) -> tuple[Home, Guests]:
    """``meet(home, guests) -> (home, guests)`` for each device's rows of `home` and all devices' of `guests`.

    home, guests: pytrees of arrays "act_batch ...". The guests' rows go round the ring of devices, over all
    mesh axes that split the batch, and are home again at the end, with what `meet` has noted in them on the
    way. `meet` must not depend on the order of its visits. Outside a mesh, or where devices do not divide the
    rows, it is just `meet(home, guests)`.

    It is not meant to be differentiated: the guests of every visit would be kept. Write the backward pass as
    a second round.
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    axes = mesh_axes_of("act_batch")
    num = math.prod(sizes[axis] for axis in axes)
    rows = {x.shape[0] for x in jax.tree.leaves((home, guests))}
    if num == 1 or any(count % num for count in rows):
        return meet(home, guests)
    to_next = [(device, (device + 1) % num) for device in range(num)]

    def visit(state, _):
        home, guests = meet(*state)
        # What `meet` leaves as it is depends on no arithmetic: XLA may send it while the tiles are computed.
        return (home, jax.lax.ppermute(guests, axes, to_next)), None

    def device(home, guests):
        return jax.lax.scan(visit, (home, guests), None, length=num)[0]

    return jax.shard_map(device, in_specs=jax.P(axes), out_specs=jax.P(axes))(home, guests)
