"""The ring exchange visits each pair of shards once and returns circulating shards to their device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import sharding
from mmjax.analysis.collectives import find_collectives
from mmjax.sharding import MeshShape, Rules

MESHES = {
    "1-D": (MeshShape(data=8), sharding.REPLICATED),
    "2-D": (MeshShape(data=2, fsdp=4), sharding.REPLICATED),
    "beside a tensor axis": (MeshShape(data=2, fsdp=2, tensor=2), sharding.FSDP_TENSOR),
    "a rule that is not a tuple": (MeshShape(data=4, tensor=2), Rules(act_batch="data")),
}


def visit(local, circulating):
    """Adds the sum of the other side's rows to "sum", and their number to "num"."""
    local_sum, circulating_sum = local["x"].sum(), circulating["x"].sum()
    local = local | {
        "sum": local["sum"] + jnp.full(local["x"].shape, circulating_sum),
        "num": local["num"] + jnp.full(local["x"].shape, circulating["one"].sum()),
    }
    return local, circulating | {"sum": circulating["sum"] + jnp.full(circulating["x"].shape, local_sum)}


def both_sides(num: int):
    x = np.arange(1.0, num + 1, dtype=np.float32)
    zero, one = np.zeros_like(x), np.ones_like(x)
    return {"x": x, "sum": zero, "num": zero}, {"x": 10 * x, "sum": zero, "one": one}


@pytest.mark.parametrize("name", MESHES)
def test_every_pair_of_rows_is_visited_once(name):
    shape, rules = MESHES[name]
    mesh = shape.make()
    local, circulating = jax.device_put(both_sides(16), sharding.batch_sharding(mesh, rules))
    with sharding.using(mesh, rules):
        run = jax.jit(functools.partial(sharding.ring_exchange, visit))
        program = run.lower(local, circulating).compile()
        local, circulating = run(local, circulating)
    kinds = {(found.kind, found.axes) for found in find_collectives(program.as_text(), mesh.shape)}
    assert kinds == {
        ("collective-permute", tuple(a for a in rules.mesh_axes("act_batch") if mesh.shape[a] > 1))
    }
    np.testing.assert_array_equal(circulating["x"], 10 * np.arange(1, 17))
    np.testing.assert_array_equal(local["sum"], np.full(16, 10 * 136))
    np.testing.assert_array_equal(local["num"], np.full(16, 16))
    np.testing.assert_array_equal(circulating["sum"], np.full(16, 136))


def test_without_a_mesh_or_with_indivisible_rows_it_is_one_visit():
    expected = visit(*both_sides(6))
    jax.tree.map(np.testing.assert_array_equal, sharding.ring_exchange(visit, *both_sides(6)), expected)
    with sharding.using(MeshShape(data=8).make(), sharding.REPLICATED):
        found = jax.jit(functools.partial(sharding.ring_exchange, visit))(*both_sides(6))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
