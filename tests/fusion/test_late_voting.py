"""Votes against NumPy, and who may hear whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_fusion import PAIR, SIZES
from catalog.row import L
from fusion_inputs import negated, pair

from mmjax import fusion, heads
from mmjax.fusion.late_voting import mixture_of, product_of


def voters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities of three voters over four classes, how sure they are, and who is there."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 3, 4)).astype(np.float32)
    there = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
    logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits, rng.normal(size=(2, 4, 3)).astype(np.float32), np.stack([there, there[::-1]])


def test_mixture_against_numpy():
    logits, confidence, there = voters()
    for certain in (confidence, np.zeros_like(confidence)):  # zeros: the plain mean
        found = np.asarray(mixture_of(jnp.asarray(logits), jnp.asarray(there), jnp.asarray(certain)))
        for row, position in np.ndindex(2, 4):
            here = there[row, position]
            p = np.exp(logits[row, position][here])
            weight = np.exp(certain[row, position][here])
            expected = (p * weight[:, None]).sum(0) / weight.sum() if here.any() else np.full(4, 0.25)
            np.testing.assert_allclose(np.exp(found[row, position]), expected, rtol=1e-5)


def test_product_against_numpy():
    logits, _, there = voters()
    prior = np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    found = np.asarray(product_of(jnp.asarray(logits), jnp.asarray(there), jnp.asarray(prior)))
    for row, position in np.ndindex(2, 4):
        here = there[row, position]
        p = np.exp(logits[row, position][here]).prod(0) / np.exp(prior) ** (here.sum() - 1.0)
        np.testing.assert_allclose(np.exp(found[row, position]), p / p.sum(), rtol=1e-5)


def test_product_of_independent_evidence_is_bayes_rule():
    """p(class | x, y) from p(class | x) and p(class | y), where x and y are independent given the class."""
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(4))
    x_given, y_given = rng.dirichlet(np.ones(5), size=4), rng.dirichlet(np.ones(6), size=4)
    joint = prior[:, None, None] * x_given[:, :, None] * y_given[:, None, :]
    by_x, by_y = joint.sum(2) / joint.sum((0, 2)), joint.sum(1) / joint.sum((0, 1))
    logits = np.log(np.stack([by_x[:, 2], by_y[:, 3]]))[None, None].astype(np.float32)
    found = product_of(
        jnp.asarray(logits), jnp.ones((1, 1, 2), bool), jnp.asarray(np.log(prior), jnp.float32)
    )
    np.testing.assert_allclose(np.exp(found[0, 0]), joint[:, 2, 3] / joint[:, 2, 3].sum(), rtol=1e-5)


@pytest.mark.parametrize("reader", [None, "text"])
def test_each_modality_votes_without_having_heard_the_other(reader):
    module, encoded = fusion.LateVoting(PAIR, num_classes=3, reader=reader, **SIZES), pair()
    params = module.init(jax.random.key(0), encoded)
    run = jax.jit(lambda given: module.apply(params, given))
    first = run(encoded)
    second = run(negated(encoded, "image"))
    np.testing.assert_array_equal(first["votes_text"].embeddings, second["votes_text"].embeddings)
    assert np.abs(first["votes_image"].embeddings - second["votes_image"].embeddings)[0].max() > 1e-3
    assert first["votes"].embeddings.shape == (4, L if reader else 1, 3)
    for name in ("votes", "votes_text", "votes_image"):
        np.testing.assert_allclose(np.exp(first[name].embeddings).sum(-1), 1, rtol=1e-5)
    image_there, text_there = encoded["image"].mask.any(1), encoded["text"].mask.any(1)
    assert not text_there.all() and image_there[text_there].any()
    if reader is None:
        np.testing.assert_array_equal(first["votes_image"].mask[:, 0], image_there)
        np.testing.assert_array_equal(first["votes"].mask[:, 0], image_there | text_there)


def test_the_head_hands_votes_on():
    module, encoded = fusion.LateVoting(PAIR, num_classes=3, reader="text", **SIZES), pair()
    made = module.init_with_output(jax.random.key(0), encoded)[0]
    every = heads.Votes("votes").apply({}, made["votes"])
    one = heads.Votes("votes", each="example").apply({}, made["votes"])
    assert every.shape == (4, L, 3) and one.shape == (4, 3) and every.dtype == one.dtype == jnp.float32
    np.testing.assert_array_equal(every, made["votes"].embeddings)
    np.testing.assert_array_equal(one, made["votes"].embeddings[:, 0])
