"""Embeddings of several hidden states of an encoder."""

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


def test_hidden_state_selects_the_pooled_state():
    rng = np.random.default_rng(0)
    states = [jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32) for _ in range(3)]
    mask = jnp.array([[True, True, False], [True, False, False]])
    params = {"linear": {"kernel": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)}}
    encoded = Encoded(states[2], mask, (states[0], states[1]))
    for index, state in ((0, states[0]), (1, states[1]), (None, states[2])):
        head = heads.PooledEmbedding("text", dim=5, hidden_state=index)
        actual = head.apply({"params": params}, encoded)
        mean = np.stack([np.asarray(state)[0, :2].mean(0), np.asarray(state)[1, 0]])
        expected = mean @ np.asarray(params["linear"]["kernel"])
        np.testing.assert_allclose(
            actual, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("index", [1, -1])
def test_hidden_state_out_of_range_is_refused(index):
    encoded = Encoded(jnp.ones((1, 2, 4)), jnp.ones((1, 2), bool), (jnp.ones((1, 2, 4)),))
    with pytest.raises(InputError, match="of the stream 'text', which has 1 hidden states"):
        heads.PooledEmbedding("text", dim=5, hidden_state=index).init(jax.random.key(0), encoded)


def aligning_learner(*indices: int | None) -> Learner:
    """Aligns image and text at each of the hidden states, with an InfoNCE each; None: the last state."""
    trunk = lambda: tiny_trunk(depth=2, scan=False, taps=(1,))  # noqa: E731
    model = MultimodalModel(
        encoders={
            "text": encoders.TextTransformer(vocab=VOCAB, max_length=32, trunk=trunk()),
            "image": encoders.ViT(stem=encoders.LinearPatches(patch=(4, 4)), trunk=trunk()),
        },
        fusion=fusion.Late(("image", "text")),
        heads={
            f"{stream}_{index}": heads.PooledEmbedding(stream, dim=8, hidden_state=index)
            for stream in ("image", "text")
            for index in indices
        },
    )
    losses = {
        f"pairs_{index}": objectives.InfoNCE(f"image_{index}", f"text_{index}", streams=("image", "text"))
        for index in indices
    }
    return Learner(model=model, objectives=losses)


@pytest.mark.parametrize("indices", [(0,), (0, None)])
def test_aligning_a_hidden_state_trains_the_layers_up_to_it(indices):
    learner, batch, key = (
        aligning_learner(*indices),
        jax.tree.map(jnp.asarray, tiny_batch()),
        jax.random.key(0),
    )
    params = learner.init({"params": key, "views": key}, batch)["params"]
    loss = lambda params: learner.apply({"params": params}, batch, rngs={"views": key})[0]  # noqa: E731
    trunk = jax.jit(jax.grad(loss))(params)["model"]["encoders_image"]["trunk"]
    has_gradient = {
        name: any(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(trunk[name])) for name in trunk
    }
    trains_last = None in indices
    assert has_gradient["layer_0"]
    assert has_gradient["layer_1"] == has_gradient["final_norm"] == trains_last
