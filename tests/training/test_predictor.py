"""Predictions are deterministic, compiled once, and the same on a mesh."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.sharding import FSDP, MeshShape
from mmjax.testing import VOCAB, tiny_batch, tiny_learner
from mmjax.training import Predictor
from mmjax.views import Identity, MaskTokens

# All of these tests run on one xdist worker, so that each program is compiled once.
pytestmark = pytest.mark.xdist_group("predictor")

HEADS = ("image", "text")
MASK = MaskTokens("text", vocab=VOCAB, rate=0.5)


@pytest.fixture(scope="module")
def learner():
    return tiny_learner(depth=1, dropout=0.5)


@pytest.fixture(scope="module")
def params(learner):
    key, batch = jax.random.key(0), jax.tree.map(jnp.asarray, tiny_batch())
    boxed = jax.eval_shape(
        lambda: learner.init({"params": key, "views": key, "dropout": key}, batch)["params"]
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: (0.2 * rng.normal(size=x.shape)).astype(x.dtype), nn.meta.unbox(boxed))


@pytest.fixture(scope="module")
def predictor(learner, params):
    return Predictor(learner, params)


def test_predictions_are_numpy_and_the_same_each_time(predictor):
    """Dropout is off, although the model has it."""
    first, targets = predictor(tiny_batch(), Identity(), HEADS)
    again, _ = predictor(tiny_batch(), Identity(), HEADS, seed=1)
    assert first.keys() == set(HEADS) and targets == {}
    for name in HEADS:
        assert type(first[name]) is np.ndarray and first[name].dtype == np.float32
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_allclose(np.linalg.norm(first[name], axis=1), 1, rtol=1e-5)


def test_the_seed_determines_random_views(predictor):
    outputs, targets = predictor(tiny_batch(), MASK, ("words",), seed=3)
    assert outputs["words"].shape == (8, 8, VOCAB)
    again = predictor(tiny_batch(), MASK, ("words",), seed=3)
    jax.tree.map(np.testing.assert_array_equal, (outputs, targets), again)
    other = predictor(tiny_batch(), MASK, ("words",), seed=4)
    assert not np.array_equal(targets["masked"], other[1]["masked"])


def test_one_compilation_serves_equal_views_and_heads(predictor):
    for seed in range(3):
        predictor(tiny_batch(seed=seed), MaskTokens("text", vocab=VOCAB, rate=0.5), ("words",), seed=seed)
    predictor(tiny_batch(), Identity(), HEADS)
    assert predictor._compiled.cache_info().currsize == 2


def test_predictions_on_a_mesh_equal_those_on_one_device(learner, params, predictor):
    mesh = MeshShape(data=2, fsdp=4).make()
    found, _ = Predictor(learner, params, mesh, FSDP)(tiny_batch(), Identity(), HEADS)
    expected, _ = predictor(tiny_batch(), Identity(), HEADS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
