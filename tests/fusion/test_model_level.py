"""What may read what: by gradients, and against the modules that they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_fusion import FUSION, PAIR, SIZES
from catalog.row import D, L, trunk
from fusion_inputs import drawn, negated, pair, whole
from test_catalog import parameters

from mmjax import fusion
from mmjax.fusion.bottleneck import mean_over_present
from mmjax.fusion.prefix import prefix_mask
from mmjax.testing import TOLERANCE

pytestmark = pytest.mark.once


def felt(module, encoded: dict, stream: str, by: str) -> np.ndarray:
    """How much each position of `stream` in the result feels each of `by`: ``"L M"``, of example 0."""
    params = drawn(module, encoded)

    def result(x):
        given = encoded | {by: encoded[by].replace(embeddings=x)}
        return module.apply({"params": params}, given)[stream].embeddings[0].astype(jnp.float32)

    jacobian = jax.jit(jax.jacobian(result))(jnp.asarray(encoded[by].embeddings))
    return np.abs(np.asarray(jacobian))[:, :, 0].max(axis=(1, 3))


def test_prefix_mask():
    seen = np.asarray(prefix_mask(2, 3)[0]).astype(int)
    np.testing.assert_array_equal(
        seen, [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    )


CAUSAL = {
    # The reader is named first, and decoded last.
    "Prefix": fusion.Prefix(("text", "image"), "text", trunk(depth=2)),
    "QFormer": fusion.QFormer(PAIR, depth=2, num_queries=3, reader="text", causal=True, **SIZES),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_reader_feels_no_later_position_and_all_of_the_others(name):
    assert CAUSAL[name].is_causal_for("text")
    own = felt(CAUSAL[name], whole(), "text", by="text")
    assert (own[np.triu_indices(L, 1)] == 0).all() and (own[np.tril_indices(L)] > 0).all()
    assert (felt(CAUSAL[name], whole(), "text", by="image") > 0).all()


def test_without_causal_the_reader_of_a_q_former_feels_all():
    module = fusion.QFormer(PAIR, depth=2, num_queries=3, reader="text", **SIZES)
    assert not module.is_causal_for("text") and module.is_causal_for("image")
    assert (felt(module, whole(), "text", by="text") > 0).all()


@pytest.mark.parametrize(
    ("depth", "first_mixing", "reads"), [(2, 2, False), (1, 0, False), (2, 0, True), (3, 1, True)]
)
def test_bottleneck_reads_across_by_its_tokens_alone_and_a_layer_later(depth, first_mixing, reads):
    module = fusion.Bottleneck(PAIR, depth, num_bottlenecks=2, first_mixing=first_mixing, **SIZES)
    assert (felt(module, whole(), "text", by="text") > 0).all()
    across = felt(module, whole(), "text", by="image")
    assert (across > 0).all() if reads else (across == 0).all()
    assert (felt(module, whole(), "fused", by="image") > 0).all() == (first_mixing < depth)


def test_bottleneck_tokens_are_the_mean_over_streams_that_are_there():
    votes = np.random.default_rng(0).normal(size=(3, 2, 4, D)).astype(np.float32)
    there = np.array([[True, True], [False, True], [False, False]])
    otherwise = np.ones((3, 4, D), np.float32)
    found = mean_over_present(jnp.asarray(votes), jnp.asarray(there), jnp.asarray(otherwise))
    np.testing.assert_allclose(found, [votes[0].mean(0), votes[1, 1], otherwise[2]], rtol=1e-6)


def test_a_closed_gate_lets_nothing_of_the_latents_through():
    """As training starts (tanh(0) = 0), the reader is what its own block makes of it."""
    module, encoded = fusion.Resampler(PAIR, depth=1, reader="text", **SIZES), whole()
    start = module.init(jax.random.key(0), encoded)
    other = negated(encoded, "image")
    run = jax.jit(lambda params, given: module.apply(params, given)["text"].embeddings)
    np.testing.assert_array_equal(run(start, encoded), run(start, other))
    opened = jax.tree.map_with_path(lambda path, x: x + ("gate" in jax.tree_util.keystr(path)), start)
    assert np.abs(run(opened, encoded) - run(opened, other)).max() > 1e-3


def test_latents_read_the_others_and_never_the_reader():
    module = fusion.Resampler(PAIR, depth=1, reader="text", num_latents=2, reader_depth=1, **SIZES)
    assert (felt(module, whole(), "text", by="image") > 0).all()
    encoded = whole()
    params = drawn(module, encoded)
    other = negated(encoded, "text")

    def latents(given):
        _, state = module.apply(
            {"params": params}, given, capture_intermediates=lambda m, _: m.name == "latents_norm"
        )
        return jax.tree.leaves(state["intermediates"])[0]

    np.testing.assert_array_equal(latents(encoded), latents(other))


def test_single_stream_is_its_trunk_over_all_positions():
    row = next(row for row in FUSION if row.name == "fusion.SingleStream")
    params, encoded = parameters(row.name), pair()
    fused = row.make("float32").apply({"params": params}, encoded)
    params, embeddings = jax.tree.map(np.asarray, (params, {name: encoded[name].embeddings for name in PAIR}))
    image = embeddings["image"] @ params["image_in"]["kernel"] + params["image_in"]["bias"]
    parts = [embeddings["text"] + params["text_tag"], image + params["image_tag"]]
    x = jnp.asarray(np.concatenate(parts, axis=1))
    mask = jnp.concatenate([encoded["text"].mask, encoded["image"].mask], axis=1)
    expected = trunk().apply({"params": params["trunk"]}, x, mask)
    found = jnp.concatenate([fused["text"].embeddings, fused["image"].embeddings], axis=1)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE["fp32_stack"])


@pytest.mark.parametrize("reader", [None, "text"])
def test_hierarchical_reads_every_level_of_every_stream(reader):
    module, encoded = fusion.Hierarchical(PAIR, depth=2, reader=reader, **SIZES), whole()
    params = drawn(module, encoded)

    def total(given):
        weigh = jnp.cos(jnp.arange(D, dtype=jnp.float32))[None, None]
        return (module.apply({"params": params}, given)[reader or "fused"].embeddings * weigh).sum()

    grads = jax.jit(jax.grad(total, allow_int=True))(encoded)
    for stream in PAIR:
        for state in (grads[stream].embeddings, *grads[stream].hidden_states):
            assert (np.abs(np.asarray(state)).max(-1) > 0).all(), stream
