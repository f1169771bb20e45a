"""Embeddings of several depths of a tower."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import encoders, fusion, heads, objectives
from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.testing import VOCAB, tiny_batch, tiny_trunk


def test_depth_chooses_a_lower_state():
    rng = np.random.default_rng(0)
    states = [jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32) for _ in range(3)]
    mask = jnp.array([[True, True, False], [True, False, False]])
    params = {"linear": {"kernel": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)}}
    encoded = Encoded(states[2], mask, (states[0], states[1]))
    for depth, state in ((0, states[0]), (1, states[1]), (None, states[2])):
        found = heads.PooledEmbedding("text", dim=5, depth=depth).apply({"params": params}, encoded)
        mean = np.stack([np.asarray(state)[0, :2].mean(0), np.asarray(state)[1, 0]])
        expected = mean @ np.asarray(params["linear"]["kernel"])
        np.testing.assert_allclose(
            found, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("depth", [1, -1])
def test_depth_that_the_trunk_does_not_hand_on(depth):
    encoded = Encoded(jnp.ones((1, 2, 4)), jnp.ones((1, 2), bool), (jnp.ones((1, 2, 4)),))
    with pytest.raises(InputError, match="reads the stream 'text', which comes with 1 lower states"):
        heads.PooledEmbedding("text", dim=5, depth=depth).init(jax.random.key(0), encoded)


def aligned(*depths: int | None) -> Learner:
    """Image and text aligned at each of `depths`, an InfoNCE each."""
    trunk = lambda: tiny_trunk(depth=2, scan=False, taps=(1,))  # noqa: E731
    model = MultimodalModel(
        encoders={
            "text": encoders.TextTransformer(vocab=VOCAB, max_length=32, trunk=trunk()),
            "image": encoders.ViT(stem=encoders.LinearPatches(patch=(4, 4)), trunk=trunk()),
        },
        fusion=fusion.Late(("image", "text")),
        heads={
            f"{stream}_{depth}": heads.PooledEmbedding(stream, dim=8, depth=depth)
            for stream in ("image", "text")
            for depth in depths
        },
    )
    losses = {
        f"pairs_{depth}": objectives.InfoNCE(f"image_{depth}", f"text_{depth}", streams=("image", "text"))
        for depth in depths
    }
    return Learner(model=model, objectives=losses)


@pytest.mark.parametrize("depths", [(0,), (0, None)])
def test_aligning_a_depth_teaches_the_layers_below_it(depths):
    learner, batch, key = aligned(*depths), jax.tree.map(jnp.asarray, tiny_batch()), jax.random.key(0)
    params = learner.init({"params": key, "views": key}, batch)["params"]
    loss = lambda params: learner.apply({"params": params}, batch, rngs={"views": key})[0]  # noqa: E731
    trunk = jax.jit(jax.grad(loss))(params)["model"]["encoders_image"]["trunk"]
    taught = {name: any(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(trunk[name])) for name in trunk}
    above = None in depths
    assert taught["layer_0"] and taught["layer_1"] == above and taught["final_norm"] == above
