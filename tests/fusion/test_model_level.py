"""Which positions each fusion reads, by gradients; results against the modules that it consists of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_fusion import FUSION, PAIR, SIZES
from catalog.row import D, L, trunk
from fusion_inputs import negated, padded_pair, random_params, unpadded_pair
from test_catalog import parameters

from mmjax import fusion
from mmjax.fusion.bottleneck import mean_over_present
from mmjax.fusion.prefix import prefix_mask
from mmjax.testing import TOLERANCE

pytestmark = pytest.mark.once


def sensitivity(module, encoded: dict, stream: str, to: str) -> np.ndarray:
    """The largest gradient of each position of fused `stream` by each input position of `to`, "L M".

    For example 0.
    """
    params = random_params(module, encoded)

    def result(x):
        inputs = encoded | {to: encoded[to].replace(embeddings=x)}
        return module.apply({"params": params}, inputs)[stream].embeddings[0].astype(jnp.float32)

    jacobian = jax.jit(jax.jacobian(result))(jnp.asarray(encoded[to].embeddings))
    return np.abs(np.asarray(jacobian))[:, :, 0].max(axis=(1, 3))


def test_prefix_mask():
    mask = np.asarray(prefix_mask(2, 3)[0]).astype(int)
    np.testing.assert_array_equal(
        mask, [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    )


CAUSAL = {
    # The updated stream comes first in `streams`, but last in the decoder.
    "Prefix": fusion.Prefix(("text", "image"), "text", trunk(depth=2)),
    "QFormer": fusion.QFormer(PAIR, depth=2, num_queries=3, updated_stream="text", causal=True, **SIZES),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_stream_depends_on_no_later_position_and_on_all_other_streams(name):
    assert CAUSAL[name].is_causal_for("text")
    gradient = sensitivity(CAUSAL[name], unpadded_pair(), "text", to="text")
    assert (gradient[np.triu_indices(L, 1)] == 0).all() and (gradient[np.tril_indices(L)] > 0).all()
    assert (sensitivity(CAUSAL[name], unpadded_pair(), "text", to="image") > 0).all()


def test_q_former_without_causal_depends_on_later_positions():
    module = fusion.QFormer(PAIR, depth=2, num_queries=3, updated_stream="text", **SIZES)
    assert not module.is_causal_for("text") and module.is_causal_for("image")
    assert (sensitivity(module, unpadded_pair(), "text", to="text") > 0).all()


@pytest.mark.parametrize(
    ("depth", "first_fusion_layer", "depends"), [(2, 2, False), (1, 0, False), (2, 0, True), (3, 1, True)]
)
def test_bottleneck_passes_other_streams_with_a_delay_of_one_layer(depth, first_fusion_layer, depends):
    module = fusion.Bottleneck(PAIR, depth, num_bottlenecks=2, first_fusion_layer=first_fusion_layer, **SIZES)
    assert (sensitivity(module, unpadded_pair(), "text", to="text") > 0).all()
    gradient = sensitivity(module, unpadded_pair(), "text", to="image")
    assert (gradient > 0).all() if depends else (gradient == 0).all()
    assert (sensitivity(module, unpadded_pair(), "fused", to="image") > 0).all() == (
        first_fusion_layer < depth
    )


def test_bottleneck_tokens_are_the_mean_over_present_streams():
    updates = np.random.default_rng(0).normal(size=(3, 2, 4, D)).astype(np.float32)
    present = np.array([[True, True], [False, True], [False, False]])
    default = np.ones((3, 4, D), np.float32)
    mean = mean_over_present(jnp.asarray(updates), jnp.asarray(present), jnp.asarray(default))
    np.testing.assert_allclose(mean, [updates[0].mean(0), updates[1, 1], default[2]], rtol=1e-6)


def test_resampler_ignores_the_latents_while_its_gates_are_zero():
    """Gates are tanh(0) = 0 when training starts."""
    module, encoded = fusion.Resampler(PAIR, depth=1, updated_stream="text", **SIZES), unpadded_pair()
    initial = module.init(jax.random.key(0), encoded)
    changed = negated(encoded, "image")
    run = jax.jit(lambda params, encoded: module.apply(params, encoded)["text"].embeddings)
    np.testing.assert_array_equal(run(initial, encoded), run(initial, changed))
    opened = jax.tree.map_with_path(lambda path, x: x + ("gate" in jax.tree_util.keystr(path)), initial)
    assert np.abs(run(opened, encoded) - run(opened, changed)).max() > 1e-3


def test_latents_read_all_streams_but_the_updated_one():
    module = fusion.Resampler(
        PAIR, depth=1, updated_stream="text", num_latents=2, cross_attention_depth=1, **SIZES
    )
    assert (sensitivity(module, unpadded_pair(), "text", to="image") > 0).all()
    encoded = unpadded_pair()
    params = random_params(module, encoded)
    changed = negated(encoded, "text")

    def latents(encoded):
        _, state = module.apply(
            {"params": params}, encoded, capture_intermediates=lambda m, _: m.name == "latents_norm"
        )
        return jax.tree.leaves(state["intermediates"])[0]

    np.testing.assert_array_equal(latents(encoded), latents(changed))


def test_single_stream_equals_its_trunk_on_the_concatenation():
    row = next(row for row in FUSION if row.name == "fusion.SingleStream")
    params, encoded = parameters(row.name), padded_pair()
    fused = row.make("float32").apply({"params": params}, encoded)
    params, embeddings = jax.tree.map(np.asarray, (params, {name: encoded[name].embeddings for name in PAIR}))
    image = embeddings["image"] @ params["image_in"]["kernel"] + params["image_in"]["bias"]
    parts = [embeddings["text"] + params["text_tag"], image + params["image_tag"]]
    x = jnp.asarray(np.concatenate(parts, axis=1))
    mask = jnp.concatenate([encoded["text"].mask, encoded["image"].mask], axis=1)
    expected = trunk().apply({"params": params["trunk"]}, x, mask)
    actual = jnp.concatenate([fused["text"].embeddings, fused["image"].embeddings], axis=1)
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE["fp32_stack"])


@pytest.mark.parametrize("updated_stream", [None, "text"])
def test_hierarchical_reads_every_level_of_every_stream(updated_stream):
    module, encoded = (
        fusion.Hierarchical(PAIR, depth=2, updated_stream=updated_stream, **SIZES),
        unpadded_pair(),
    )
    params = random_params(module, encoded)

    def weighted_sum(encoded):
        weights = jnp.cos(jnp.arange(D, dtype=jnp.float32))[None, None]
        fused = module.apply({"params": params}, encoded)
        return (fused[updated_stream or "fused"].embeddings * weights).sum()

    grads = jax.jit(jax.grad(weighted_sum, allow_int=True))(encoded)
    for stream in PAIR:
        for state in (grads[stream].embeddings, *grads[stream].hidden_states):
            assert (np.abs(np.asarray(state)).max(-1) > 0).all(), stream
