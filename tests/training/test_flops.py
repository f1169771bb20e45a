"""Counted FLOPs against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.layers import Transformer
from mmjax.testing import tiny_batch, tiny_learner
from mmjax.training import flops

B, L, D, F, DEPTH = 2, 5, 8, 12, 3


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_matrix_products():
    assert flops.count(jnp.dot, shape(3, 4), shape(4, 5)) == 2 * 3 * 4 * 5
    batched = lambda a, b: jnp.einsum("BLD,BMD->BLM", a, b)  # noqa: E731
    assert flops.count(batched, shape(7, 3, 4), shape(7, 5, 4)) == 2 * 7 * 3 * 5 * 4
    assert flops.count(lambda x: jnp.tanh(x) + 1, shape(3, 4)) == 0


def test_nested_functions_count_as_often_as_they_run():
    product = lambda x: x @ x  # noqa: E731
    one = 2 * 4**3
    assert flops.count(jax.jit(product), shape(4, 4)) == one
    assert flops.count(jax.checkpoint(product), shape(4, 4)) == one
    assert flops.count(jax.vmap(product), shape(6, 4, 4)) == 6 * one
    looped = lambda x: jax.lax.scan(lambda x, _: (product(x), None), x, length=5)[0]  # noqa: E731
    assert flops.count(looped, shape(4, 4)) == 5 * one
    counted = lambda x: jax.lax.fori_loop(0, 5, lambda _, x: product(x), x)  # noqa: E731
    assert flops.count(counted, shape(4, 4)) == 5 * one
    either = lambda x: jax.lax.cond(x[0, 0] > 0, product, lambda x: product(product(x)), x)  # noqa: E731
    assert flops.count(either, shape(4, 4)) == 2 * one


@pytest.mark.parametrize("scan", [True, False])
def test_a_transformer(scan):
    trunk = Transformer(depth=DEPTH, width=D, num_heads=2, mlp_width=F, scan=scan)
    x, mask = jnp.zeros((B, L, D)), jnp.ones((B, L), bool)
    params = jax.eval_shape(lambda: trunk.init(jax.random.key(0), x, mask))
    projections, scores, mlp = 4 * D * D, 2 * L * D, 2 * D * F  # multiply-adds a token
    expected = 2 * B * L * DEPTH * (projections + scores + mlp)
    assert flops.count(trunk.apply, params, x, mask) == expected


def test_a_train_step_is_three_forward_passes():
    learner, key = tiny_learner(depth=1), jax.random.key(0)
    batch = jax.tree.map(jnp.asarray, tiny_batch())
    params = jax.eval_shape(lambda: learner.init({"params": key, "views": key}, batch)["params"])

    def forward(params, batch):
        return learner.apply({"params": params}, batch, train=True, rngs={"views": key})

    assert flops.train_flops(learner, params, batch) == 3 * flops.count(forward, params, batch) > 0


def test_utilization_is_none_if_the_peak_is_unknown():
    class Device:
        device_kind = "NVIDIA H200"

    assert flops.mfu(989e12, [Device(), Device()]) == 0.5
    assert flops.mfu(1e12, jax.devices()) is None
