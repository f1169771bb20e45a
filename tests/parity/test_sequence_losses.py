"""Losses of sequences against plain loops in NumPy, float64, over the valid positions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalog.of_objectives import ctc_outputs, language_outputs, tag_outputs, values

from mmjax import objectives
from mmjax.heads import MaskedLogits
from mmjax.objectives import Outputs
from mmjax.objectives.ctc import ctc_loss, min_frames
from mmjax.testing import TOLERANCE

RTOL = TOLERANCE["fp32_module"]


def log_softmax(scores) -> np.ndarray:
    return np.asarray(scores) - np.log(sum(np.exp(score) for score in scores))


@pytest.mark.parametrize("prefix", [False, True])
def test_causal_language(prefix):
    (outputs,) = jax.tree.map(jnp.asarray, language_outputs(prefix))
    text, logits = outputs.batch["text"], np.float64(outputs.predictions["words"])
    losses, correct = [], []
    for row in range(len(text.tokens)):
        for position in range(1, text.tokens.shape[1]):
            if not (text.mask[row, position] and text.mask[row, position - 1]):
                continue
            if prefix and text.prefix[row, position]:
                continue
            token = text.tokens[row, position]
            losses.append(-log_softmax(logits[row, position - 1])[token])
            correct.append(logits[row, position - 1].argmax() == token)
    loss, metrics = jax.jit(values(objectives.CausalLanguage("words").apply))({}, outputs)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=RTOL)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(correct), rtol=RTOL)
    np.testing.assert_allclose(
        metrics["perplexity"], np.exp(np.mean(losses)), rtol=10 * RTOL
    )  # exp magnifies errors


def test_a_prefix_changes_the_loss():
    with_prefix, without = (
        values(objectives.CausalLanguage("words").apply)(
            {}, jax.tree.map(jnp.asarray, language_outputs(prefix)[0])
        )[0]
        for prefix in (True, False)
    )
    assert abs(with_prefix - without) > 1e-3


def loop_ctc(log_p: np.ndarray, labels: list[int], blank: int = 0) -> float:
    """-log of the total probability of the paths that collapse to the labels: Graves et al. 2006, eq. 3."""
    total = 0.0
    for path in itertools.product(range(log_p.shape[1]), repeat=len(log_p)):
        collapsed = [token for token, _ in itertools.groupby(path) if token != blank]
        if collapsed == labels:
            total += np.exp(sum(log_p[frame, token] for frame, token in enumerate(path)))
    return -np.log(total)


@pytest.mark.parametrize(
    "labels, frames",
    [([1], 5), ([1, 2, 1], 5), ([2, 2], 4), ([1, 1, 1], 5), ([], 3), ([3, 1], 2)],
    ids=["one", "three", "repeated", "tight", "no label", "one frame each"],
)
def test_ctc_is_the_sum_over_all_paths(labels, frames):
    logits = 2 * np.random.default_rng(len(labels)).normal(size=(1, 6, 4))
    log_p = np.stack([log_softmax(frame) for frame in logits[0, :frames]])
    padded = np.array([labels + [3] * (4 - len(labels))])
    mask = np.arange(6)[None] < frames
    found = jax.jit(ctc_loss, static_argnums=4)(
        jnp.float32(logits), mask, padded, jnp.array([len(labels)]), 0
    )
    # Rows without a label are ignored, although the empty text has a probability.
    expected = loop_ctc(log_p, labels) if labels else 0
    np.testing.assert_allclose(found[0], expected, rtol=RTOL)


def test_ctc_skips_masked_frames():
    logits = np.random.default_rng(0).normal(size=(1, 6, 4)).astype(np.float32)
    mask = np.array([[True, True, False, True, False, True]])
    labels, num = jnp.array([[1, 2]]), jnp.array([2])
    masked = ctc_loss(jnp.asarray(logits), jnp.asarray(mask), labels, num, 0)
    dense = ctc_loss(jnp.asarray(logits[:, mask[0]]), jnp.ones((1, 4), bool), labels, num, 0)
    np.testing.assert_allclose(masked, dense, rtol=RTOL)


def test_ctc_ignores_rows_without_text_or_with_too_few_frames():
    """Of four rows: three labels, no text, too few frames, a repeated label."""
    (outputs,) = jax.tree.map(jnp.asarray, ctc_outputs())
    frames, text = outputs.predictions["frames"], outputs.batch["text"]
    losses = []
    for row in (0, 3):
        log_p = [log_softmax(frame) for frame in np.float64(frames.logits[row])[np.asarray(frames.mask[row])]]
        labels = [int(t) for t, word in zip(text.tokens[row], text.words[row], strict=True) if word >= 0]
        losses.append(loop_ctc(np.stack(log_p), labels) / len(labels))
    loss, metrics = jax.jit(values(objectives.CTC("frames").apply))({}, outputs)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=RTOL)
    np.testing.assert_allclose(metrics["counted"], 2 / 3, rtol=RTOL)


def test_ctc_gradient_is_zero_at_ignored_rows_and_frames():
    """optax.ctc_loss gives the row with too few frames a loss of 10^5."""
    (outputs,) = jax.tree.map(jnp.asarray, ctc_outputs())
    frames = outputs.predictions["frames"]

    def loss(logits):
        predictions = {"frames": MaskedLogits(logits, frames.mask)}
        return values(objectives.CTC("frames").apply)({}, outputs.replace(predictions=predictions))[0]

    gradient = jax.jit(jax.grad(loss))(frames.logits)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1:3], 0)
    np.testing.assert_array_equal(np.asarray(gradient)[~np.asarray(frames.mask)], 0)
    assert (np.abs(gradient[0]) > 0).any() and (np.abs(gradient[3]) > 0).any()
    raw = optax.ctc_loss(
        frames.logits, 1.0 - frames.mask, outputs.batch["text"].tokens[:, 1:4], jnp.zeros((4, 3))
    )
    assert raw[2] > 1e4, "expected a large loss of the ignored row"


def test_min_frames():
    labels = jnp.array([[5, 5, 6, 6], [5, 6, 5, 0], [7, 7, 7, 7]])
    np.testing.assert_array_equal(min_frames(labels, jnp.array([4, 3, 2])), [6, 3, 3])


def test_token_classification():
    (outputs,) = jax.tree.map(jnp.asarray, tag_outputs())
    logits, tags = np.float64(outputs.predictions["tags"]), outputs.batch["tags"]
    losses, correct = [], []
    for row, position in zip(*np.nonzero(tags.mask), strict=True):
        tag = int(tags.values[row, position])
        losses.append(-log_softmax(logits[row, position])[tag])
        correct.append(logits[row, position].argmax() == tag)
    loss, metrics = jax.jit(values(objectives.TokenClassification("tags").apply))({}, outputs)
    np.testing.assert_allclose((loss, metrics["accuracy"]), (np.mean(losses), np.mean(correct)), rtol=RTOL)


@pytest.mark.parametrize("name", ["language", "ctc", "tags"])
def test_a_batch_without_valid_rows_gives_zero_loss_and_gradient(name):
    """Not NaN, although the logits are large."""
    outputs: Outputs = {"language": language_outputs, "ctc": ctc_outputs, "tags": tag_outputs}[name]()[0]
    outputs = jax.tree.map(jnp.asarray, outputs)
    module = {
        "language": objectives.CausalLanguage("words"),
        "ctc": objectives.CTC("frames"),
        "tags": objectives.TokenClassification("tags"),
    }[name]
    empty = {stream: x.replace(mask=jnp.zeros_like(x.mask)) for stream, x in outputs.batch.items()}

    def loss(scale):
        predictions = jax.tree.map(
            lambda x: jnp.full(x.shape, 1e4) * scale if x.dtype == np.float32 else x, outputs.predictions
        )
        return values(module.apply)({}, outputs.replace(batch=empty, predictions=predictions))[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(1.0)
    assert value == 0 and gradient == 0
