"""Each loss against a plain loop in NumPy, float64, over the valid rows and positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_objectives import match_outputs, pair_outputs, sentence_outputs, token_outputs, values

from mmjax import objectives, views
from mmjax.objectives.base import masked_cross_entropy
from mmjax.objectives.contrastive import PairMask, info_nce, sigmoid_pairs
from mmjax.testing import TOLERANCE

RTOL = TOLERANCE["fp32_module"]
VALID = np.array([True, True, False, True, True, False])
# Rows 0 and 3 have equal contents; rows 2 and 5 are missing.
POSITIVES = (
    np.eye(6, dtype=bool) | np.isin(np.arange(6), (0, 3))[:, None] & np.isin(np.arange(6), (0, 3))
) & (VALID[:, None] & VALID[None, :])


def pair_mask(valid, groups=None) -> PairMask:
    """Rows of one group are positives of each other; by default each row is its own group."""
    if groups is None:
        return PairMask(jnp.asarray(valid))
    checksums = np.stack([groups, groups], axis=1).astype(np.uint32)
    return PairMask(jnp.asarray(valid), jnp.asarray(checksums), jnp.ones(len(valid), bool))


GROUPS = np.array([0, 1, 2, 0, 4, 5])


def log_softmax(scores) -> list[float]:
    total = sum(np.exp(score) for score in scores)
    return [score - np.log(total) for score in scores]


def log_sigmoid(x: float) -> float:
    return -np.log1p(np.exp(-x))


def loop_info_nce(logits, valid, positives, smoothing: float = 0.0) -> tuple[float, float]:
    losses, correct = ([], []), ([], [])
    rows = [i for i in range(len(valid)) if valid[i]]
    for direction, (scores, is_positive) in enumerate(((logits, positives), (logits.T, positives.T))):
        for i in rows:
            log_p = dict(zip(rows, log_softmax([scores[i, j] for j in rows]), strict=True))
            positive = [j for j in rows if is_positive[i, j]]
            loss = -sum(log_p[j] for j in positive) / len(positive)
            smooth = -sum(log_p.values()) / len(rows)
            losses[direction].append((1 - smoothing) * loss + smoothing * smooth)
            correct[direction].append(max(rows, key=log_p.get) in positive)
    return np.mean([np.mean(x) for x in losses]), np.mean([np.mean(x) for x in correct])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("valid", [np.ones(6, bool), VALID], ids=["all", "some missing"])
@pytest.mark.parametrize("repeated", [False, True])
def test_info_nce(smoothing, valid, repeated):
    logits = np.float32(5 * np.random.default_rng(0).normal(size=(6, 6)))
    positives = POSITIVES if repeated else np.eye(6, dtype=bool)
    positives = positives & valid[:, None] & valid[None, :] | np.diag(valid)
    pairs = pair_mask(valid, GROUPS if repeated else None)
    # With unit vectors as the second side, the logits are the first side.
    found = jax.jit(lambda x: info_nce(x, jnp.eye(6), 1.0, pairs, label_smoothing=smoothing))(logits)
    expected = (*loop_info_nce(logits, valid, positives, smoothing), valid.sum())
    np.testing.assert_allclose(found, expected, rtol=RTOL)


def test_info_nce_counts_ties_as_errors():
    _, accuracy, _ = info_nce(jnp.ones((6, 6)), jnp.ones((6, 6)), 1.0, pair_mask(VALID, GROUPS))
    assert accuracy == 0


def test_sigmoid_pairs():
    logits = np.float32(5 * np.random.default_rng(0).normal(size=(6, 6)))
    rows = np.flatnonzero(VALID)
    total = 0.0
    for i in rows:
        for j in rows:
            total -= log_sigmoid(logits[i, j] if POSITIVES[i, j] else -logits[i, j])
    pairs = pair_mask(VALID, GROUPS)
    found = jax.jit(lambda x: sigmoid_pairs(x, jnp.eye(6), 1.0, 0.0, pairs))(logits)
    np.testing.assert_allclose(found, total / len(rows), rtol=RTOL)


@pytest.mark.parametrize("match_by", [None, "text"])
@pytest.mark.parametrize("log_scale, scale", [(1.0, np.e), (10.0, 100.0)], ids=["", "capped"])
def test_info_nce_module_masks_missing_rows_and_matches_equal_ones(match_by, log_scale, scale):
    """Of four rows, 0 and 2 hold the same text, and 3 has no image."""
    (outputs,) = jax.tree.map(jnp.asarray, pair_outputs())
    module = objectives.InfoNCE("image", "text", match_by=match_by)
    loss, metrics = jax.jit(values(module.apply))({"params": {"log_scale": jnp.float32(log_scale)}}, outputs)

    valid, positives = np.array([True, True, True, False]), np.diag([True, True, True, False])
    if match_by:
        positives[0, 2] = positives[2, 0] = True
    first, second = (np.float64(outputs.predictions[name]) for name in ("image", "text"))
    expected = loop_info_nce(scale * first @ second.T, valid, positives)
    np.testing.assert_allclose((loss, metrics["accuracy"]), expected, rtol=RTOL)
    np.testing.assert_allclose(metrics["temperature"], 1 / scale, rtol=RTOL)


def test_sigmoid_pairs_module_scales_and_shifts():
    (outputs,) = jax.tree.map(jnp.asarray, pair_outputs())
    params = {"log_scale": jnp.float32(1.0), "bias": jnp.float32(-2.0)}
    loss, _ = jax.jit(values(objectives.SigmoidPairs("image", "text").apply))({"params": params}, outputs)
    first, second = (np.float64(outputs.predictions[name]) for name in ("image", "text"))
    total = 0.0
    for i in range(3):
        for j in range(3):
            logit = np.e * first[i] @ second[j] - 2
            total -= log_sigmoid(logit if i == j else -logit)
    np.testing.assert_allclose(loss, total / 3, rtol=RTOL)


def test_initial_scalars_are_those_of_the_papers():
    (outputs,) = jax.tree.map(jnp.asarray, pair_outputs())
    clip = objectives.InfoNCE("image", "text").init(jax.random.key(0), outputs)
    siglip = objectives.SigmoidPairs("image", "text").init(jax.random.key(0), outputs)
    values = jax.tree.leaves((clip, siglip))
    np.testing.assert_allclose(values, (np.log(1 / 0.07), -10, np.log(10)), rtol=RTOL)


def test_masked_language():
    (outputs,) = jax.tree.map(jnp.asarray, token_outputs())
    logits = np.float64(outputs.predictions["words"])
    tokens, masked = np.asarray(outputs.targets["tokens"]), np.asarray(outputs.targets["masked"])
    losses, correct = [], []
    for i, position in zip(*np.nonzero(masked), strict=True):
        token = tokens[i, position]
        losses.append(-log_softmax(logits[i, position])[token])
        correct.append(logits[i, position].argmax() == token)
    module = objectives.MaskedLanguage("words", view=views.Identity())
    loss, metrics = jax.jit(values(module.apply))({}, outputs)
    np.testing.assert_allclose((loss, metrics["accuracy"]), (np.mean(losses), np.mean(correct)), rtol=RTOL)


def test_next_sentence():
    (outputs,) = jax.tree.map(jnp.asarray, sentence_outputs())
    logits, label = np.float64(outputs.predictions["follows"]), np.int32(outputs.targets["is_next"])
    rows = np.flatnonzero(outputs.targets["valid"])
    losses = [-log_softmax(logits[i])[label[i]] for i in rows]
    correct = [logits[i].argmax() == label[i] for i in rows]
    module = objectives.NextSentence("follows", view=views.Identity())
    loss, metrics = jax.jit(values(module.apply))({}, outputs)
    np.testing.assert_allclose((loss, metrics["accuracy"]), (np.mean(losses), np.mean(correct)), rtol=RTOL)


def test_matching():
    (outputs,) = jax.tree.map(jnp.asarray, match_outputs())
    logits, matches = np.float64(outputs.predictions["matches"]), np.asarray(outputs.targets["matches"])
    rows = np.flatnonzero(outputs.targets["valid"])
    losses = [-log_sigmoid(logits[i] if matches[i] else -logits[i]) for i in rows]
    correct = [(logits[i] > 0) == matches[i] for i in rows]
    module = objectives.Matching("matches", view=views.Identity())
    loss, metrics = jax.jit(values(module.apply))({}, outputs)
    np.testing.assert_allclose((loss, metrics["accuracy"]), (np.mean(losses), np.mean(correct)), rtol=RTOL)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid_pairs", "masked_cross_entropy"])
def test_a_batch_without_valid_rows_gives_zero_loss_and_gradient(loss):
    """Not NaN, although the logits are large."""
    none, no_position = jnp.zeros(4, bool), jnp.zeros((4, 4), bool)
    functions = {
        "info_nce": lambda x: info_nce(x, x, 1.0, PairMask(none), label_smoothing=0.1)[0],
        "sigmoid_pairs": lambda x: sigmoid_pairs(x, x, 1.0, 0.0, PairMask(none)),
        "masked_cross_entropy": lambda logits: masked_cross_entropy(
            logits[None], jnp.zeros((1, 4), jnp.int32), no_position[:1]
        ),
    }
    value, gradient = jax.jit(jax.value_and_grad(functions[loss]))(jnp.full((4, 4), 1e4))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
