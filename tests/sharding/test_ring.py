"""Rows of all devices meet, each pair once, and guests come home."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import sharding
from mmjax.analysis.collectives import collectives
from mmjax.sharding import MeshShape, Rules

MESHES = {
    "1-D": (MeshShape(data=8), sharding.REPLICATED),
    "2-D": (MeshShape(data=2, fsdp=4), sharding.REPLICATED),
    "beside others": (MeshShape(data=2, fsdp=2, tensor=2), sharding.FSDP_TENSOR),
    "an axis that is not a tuple": (MeshShape(data=4, tensor=2), Rules(act_batch="data")),
}


def meet(home, guests):
    """Each side notes the sum of what it has met, and how many."""
    met = jnp.full(home["x"].shape, guests["x"].sum()), jnp.full(guests["x"].shape, home["x"].sum())
    num = jnp.full(home["x"].shape, guests["one"].sum())
    home = home | {"met": home["met"] + met[0], "num": home["num"] + num}
    return home, guests | {"met": guests["met"] + met[1]}


def sides(num: int):
    x = np.arange(1.0, num + 1, dtype=np.float32)
    zero, one = np.zeros_like(x), np.ones_like(x)
    return {"x": x, "met": zero, "num": zero}, {"x": 10 * x, "met": zero, "one": one}


@pytest.mark.parametrize("name", MESHES)
def test_every_row_meets_every_other(name):
    shape, rules = MESHES[name]
    mesh = shape.make()
    home, guests = jax.device_put(sides(16), sharding.batch_sharding(mesh, rules))
    with sharding.using(mesh, rules):
        run = jax.jit(lambda home, guests: sharding.ring_exchange(meet, home, guests))
        program = run.lower(home, guests).compile()
        home, guests = run(home, guests)
    kinds = {(found.kind, found.axes) for found in collectives(program.as_text(), mesh.shape)}
    assert kinds == {
        ("collective-permute", tuple(a for a in rules.mesh_axes("act_batch") if mesh.shape[a] > 1))
    }
    np.testing.assert_array_equal(guests["x"], 10 * np.arange(1, 17))
    np.testing.assert_array_equal(home["met"], np.full(16, 10 * 136))
    np.testing.assert_array_equal(home["num"], np.full(16, 16))
    np.testing.assert_array_equal(guests["met"], np.full(16, 136))


def test_without_a_mesh_and_with_rows_that_devices_do_not_divide_it_is_one_meeting():
    expected = meet(*sides(6))
    jax.tree.map(np.testing.assert_array_equal, sharding.ring_exchange(meet, *sides(6)), expected)
    with sharding.using(MeshShape(data=8).make(), sharding.REPLICATED):
        found = jax.jit(lambda home, guests: sharding.ring_exchange(meet, home, guests))(*sides(6))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
