"""Combined votes against NumPy; no vote depends on another modality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_fusion import PAIR, SIZES
from catalog.row import L
from fusion_inputs import negated, padded_pair

from mmjax import fusion, heads
from mmjax.fusion.late_voting import log_mixture, log_product


def random_votes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities "2 4 3 4" of three modalities over four classes, their confidence, their mask."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 3, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return log_probs, rng.normal(size=(2, 4, 3)).astype(np.float32), np.stack([mask, mask[::-1]])


def test_mixture_against_numpy():
    log_probs, confidences, mask = random_votes()
    for confidence in (confidences, np.zeros_like(confidences)):  # zeros: the unweighted mean
        actual = np.asarray(log_mixture(jnp.asarray(log_probs), jnp.asarray(mask), jnp.asarray(confidence)))
        for row, position in np.ndindex(2, 4):
            present = mask[row, position]
            p = np.exp(log_probs[row, position][present])
            weight = np.exp(confidence[row, position][present])
            expected = (p * weight[:, None]).sum(0) / weight.sum() if present.any() else np.full(4, 0.25)
            np.testing.assert_allclose(np.exp(actual[row, position]), expected, rtol=1e-5)


def test_product_against_numpy():
    log_probs, _, mask = random_votes()
    prior = np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    actual = np.asarray(log_product(jnp.asarray(log_probs), jnp.asarray(mask), jnp.asarray(prior)))
    for row, position in np.ndindex(2, 4):
        present = mask[row, position]
        p = np.exp(log_probs[row, position][present]).prod(0) / np.exp(prior) ** (present.sum() - 1.0)
        np.testing.assert_allclose(np.exp(actual[row, position]), p / p.sum(), rtol=1e-5)


def test_product_of_independent_evidence_is_bayes_rule():
    """p(class | x, y) from p(class | x) and p(class | y), where x and y are independent given the class."""
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(4))
    x_given, y_given = rng.dirichlet(np.ones(5), size=4), rng.dirichlet(np.ones(6), size=4)
    joint = prior[:, None, None] * x_given[:, :, None] * y_given[:, None, :]
    by_x, by_y = joint.sum(2) / joint.sum((0, 2)), joint.sum(1) / joint.sum((0, 1))
    log_probs = np.log(np.stack([by_x[:, 2], by_y[:, 3]]))[None, None].astype(np.float32)
    actual = log_product(
        jnp.asarray(log_probs), jnp.ones((1, 1, 2), bool), jnp.asarray(np.log(prior), jnp.float32)
    )
    np.testing.assert_allclose(np.exp(actual[0, 0]), joint[:, 2, 3] / joint[:, 2, 3].sum(), rtol=1e-5)


@pytest.mark.parametrize("query_stream", [None, "text"])
def test_a_single_modality_vote_depends_on_no_other_modality(query_stream):
    module = fusion.LateVoting(PAIR, num_classes=3, query_stream=query_stream, **SIZES)
    encoded = padded_pair()
    params = module.init(jax.random.key(0), encoded)
    run = jax.jit(lambda encoded: module.apply(params, encoded))
    votes = run(encoded)
    changed = run(negated(encoded, "image"))
    np.testing.assert_array_equal(votes["votes_text"].embeddings, changed["votes_text"].embeddings)
    assert np.abs(votes["votes_image"].embeddings - changed["votes_image"].embeddings)[0].max() > 1e-3
    assert votes["votes"].embeddings.shape == (4, L if query_stream else 1, 3)
    for name in ("votes", "votes_text", "votes_image"):
        np.testing.assert_allclose(np.exp(votes[name].embeddings).sum(-1), 1, rtol=1e-5)
    has_image, has_text = encoded["image"].mask.any(1), encoded["text"].mask.any(1)
    assert not has_text.all() and has_image[has_text].any()
    if query_stream is None:
        np.testing.assert_array_equal(votes["votes_image"].mask[:, 0], has_image)
        np.testing.assert_array_equal(votes["votes"].mask[:, 0], has_image | has_text)


def test_votes_head_returns_the_log_probabilities():
    module = fusion.LateVoting(PAIR, num_classes=3, query_stream="text", **SIZES)
    votes = module.init_with_output(jax.random.key(0), padded_pair())[0]["votes"]
    by_position = heads.Votes("votes").apply({}, votes)
    by_example = heads.Votes("votes", per="example").apply({}, votes)
    assert by_position.shape == (4, L, 3) and by_example.shape == (4, 3)
    assert by_position.dtype == by_example.dtype == jnp.float32
    np.testing.assert_array_equal(by_position, votes.embeddings)
    np.testing.assert_array_equal(by_example, votes.embeddings[:, 0])
