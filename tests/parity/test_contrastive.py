"""Variants of the contrastive loss against plain loops in NumPy, float64."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_objectives import outputs, pair_outputs, three_outputs, values
from catalog.row import normal

from mmjax import objectives
from mmjax.batch import Image, is_present
from mmjax.errors import InputError
from mmjax.objectives.contrastive import PairMask, info_nce, log_negatives
from mmjax.objectives.scalars import clip_max
from mmjax.objectives.tiles import Terms
from mmjax.testing import TOLERANCE
from mmjax.training.optimizer import AdamW, decay_mask, path_name

pytestmark = pytest.mark.once

RTOL = TOLERANCE["fp32_module"]
VALID = np.array([True, True, False, True, True, False, True])
GROUPS = np.array([0, 1, 2, 0, 4, 5, 0])
SCALE = 4.0


def unit(batch: int = 7, seed: int = 0) -> np.ndarray:
    x = normal(batch, 5, seed=seed)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def loop(first, second, valid, groups, decoupled=False, beta=0.0, tau_plus=0.0, scale=SCALE) -> float:
    """Robinson et al. 2021, eq. 4 and 5, and Yeh et al. 2022; the mean over positives of a row."""
    rows, losses = np.flatnonzero(valid), []
    for a, b in ((first, second), (second, first)):
        row_losses = []
        for i in rows:
            logit = {j: scale * float(np.float64(a[i]) @ np.float64(b[j])) for j in rows}
            positives = [j for j in rows if groups[j] == groups[i]]
            negatives = [j for j in rows if groups[j] != groups[i]]
            denominator = 0.0
            if negatives:
                weights = [np.exp(beta * logit[j]) for j in negatives]
                expected = sum(w * np.exp(logit[j]) for w, j in zip(weights, negatives, strict=True)) / sum(
                    weights
                )
                positive = np.mean([np.exp(logit[j]) for j in positives])
                debiased = (expected - tau_plus * positive) / (1 - tau_plus)
                lower_bound = np.exp(-scale) if tau_plus else 0.0
                denominator += len(negatives) * max(debiased, lower_bound)
            if not decoupled:
                denominator += sum(np.exp(logit[j]) for j in positives)
            elif not negatives:
                continue
            row_losses.append(np.log(denominator) - np.mean([logit[j] for j in positives]))
        losses.append(np.mean(row_losses))
    return float(np.mean(losses))


def pairs(valid=VALID, groups=GROUPS) -> PairMask:
    checksums = np.stack([groups, groups], axis=1).astype(np.uint32)
    return PairMask(jnp.asarray(valid), jnp.asarray(checksums), jnp.ones(len(valid), bool))


@pytest.mark.parametrize("decoupled", [False, True], ids=["", "decoupled"])
@pytest.mark.parametrize("beta, tau_plus", [(0.0, 0.0), (0.7, 0.0), (0.0, 0.1), (0.7, 0.1), (0.5, 0.9)])
def test_variants_of_info_nce(decoupled, beta, tau_plus):
    """tau_plus 0.9 subtracts so much that some rows reach the lower bound of the negatives."""
    first, second = unit(), unit(seed=1)

    @jax.jit
    def found(first, second):
        fields = {"decoupled": decoupled, "beta": beta, "tau_plus": tau_plus}
        return info_nce(first, second, SCALE, pairs(), tile_size=4, **fields)[0]

    expected = loop(first, second, VALID, GROUPS, decoupled, beta, tau_plus)
    np.testing.assert_allclose(found(first, second), expected, rtol=RTOL)
    plain = loop(first, second, VALID, GROUPS)
    assert (abs(expected - plain) > 1e-3) == bool(decoupled or beta or tau_plus)
    gradient = jax.jit(jax.grad(found))(jnp.asarray(first), jnp.asarray(second))
    step, direction = 1e-4, np.float64(normal(*first.shape, seed=3))
    sides = [first + step * direction, first - step * direction]
    up, down = (loop(side, second, VALID, GROUPS, decoupled, beta, tau_plus) for side in sides)
    np.testing.assert_allclose((gradient * direction).sum(), (up - down) / (2 * step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fields", [{"decoupled": True}, {"beta": 1.0}, {"beta": 1.0, "tau_plus": 0.1}], ids=str
)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_rows_without_negatives_are_finite(fields, scale):
    """All rows are equal, or one or none is valid. At scale 100, exp overflows float32."""

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(first, second, pairs):
        return info_nce(first, second, scale, pairs, **fields)[0]

    for valid, groups in (
        (np.ones(7, bool), np.zeros(7, int)),
        (np.arange(7) == 3, GROUPS),
        (np.zeros(7, bool), GROUPS),
        (VALID, GROUPS),
    ):
        value, grads = loss(unit(), unit(), pairs(valid, groups))
        assert np.isfinite(value) and all(np.isfinite(x).all() for x in grads)
        if "decoupled" in fields and len(set(groups[valid])) < 2:
            assert value == 0


def test_negatives_have_a_lower_bound():
    """The negatives have mean 1; tau_plus subtracts 0.2, 0.99 and 1.2 (Robinson et al. 2021, eq. 5)."""
    sums = {"num_negatives": jnp.full(3, 3.0), "num_positives": jnp.ones(3)}
    logs = {"negatives": jnp.log(jnp.full(3, 3.0)), "positives": jnp.log(jnp.array([0.4, 1.98, 2.4]))}
    found = log_negatives(Terms(logs, sums), 2.0, 0.0, 0.5)
    np.testing.assert_allclose(jnp.exp(found), 3 * np.array([0.8 / 0.5, np.exp(-2), np.exp(-2)]), rtol=RTOL)


def test_multiway_contrasts_each_two_heads():
    (inputs,) = jax.tree.map(jnp.asarray, three_outputs())
    module = objectives.MultiwayInfoNCE(("image", "text", "audio"), match_by="text", tile_size=2)
    variables = nn.unbox(module.init(jax.random.key(0), inputs))
    loss, metrics = jax.jit(values(module.apply))(variables, inputs)
    groups, losses = np.array([0, 1, 0, 3]), []
    for a, b in itertools.combinations(("image", "text", "audio"), 2):
        valid = np.asarray(is_present(inputs.batch[a]) & is_present(inputs.batch[b]))
        first, second = (np.asarray(inputs.predictions[name]) for name in (a, b))
        losses.append(loop(first, second, valid, groups, scale=1 / 0.07))
        np.testing.assert_allclose(metrics[f"temperature_{a}_{b}"], 0.07, rtol=RTOL)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=RTOL)


def test_multiway_contrasts_each_head_with_the_mean_of_the_present_others():
    (inputs,) = jax.tree.map(jnp.asarray, three_outputs())
    module = objectives.MultiwayInfoNCE(("image", "text", "audio"), against="others")
    variables = nn.unbox(module.init(jax.random.key(0), inputs))
    loss, _ = jax.jit(values(module.apply))(variables, inputs)
    present = {name: np.asarray(is_present(inputs.batch[name])) for name in ("image", "text", "audio")}
    assert not present["image"][3] and not present["audio"][2]
    losses = []
    for name in present:
        mean, valid = np.zeros((4, 8)), np.zeros(4, bool)
        for i in range(4):
            others = [np.float64(inputs.predictions[o])[i] for o in present if o != name and present[o][i]]
            mean[i] = np.mean(others, axis=0) / np.linalg.norm(np.mean(others, axis=0))
            valid[i] = present[name][i]
        losses.append(loop(np.asarray(inputs.predictions[name]), mean, valid, np.arange(4), scale=1 / 0.07))
    np.testing.assert_allclose(loss, np.mean(losses), rtol=RTOL)


@pytest.mark.parametrize("against", ["each", "others"])
def test_multiway_ignores_a_stream_that_no_row_has(against):
    (inputs,) = jax.tree.map(jnp.asarray, three_outputs())
    missing = Image(inputs.batch["image"].pixels, jnp.zeros(4, bool))
    inputs = inputs.replace(batch=inputs.batch | {"image": missing})
    two = objectives.MultiwayInfoNCE(("text", "audio"), against="each")
    three = objectives.MultiwayInfoNCE(("image", "text", "audio"), against=against)
    variables = three.init(jax.random.key(0), inputs)
    (loss, _), grads = jax.value_and_grad(
        lambda predictions: values(three.apply)(variables, inputs.replace(predictions=predictions)),
        has_aux=True,
    )(inputs.predictions)
    expected, _ = values(two.apply)(two.init(jax.random.key(0), inputs), inputs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert (grads["image"] == 0).all()
    if against == "each":
        np.testing.assert_allclose(loss, expected, rtol=RTOL)


def test_embeddings_of_different_widths_are_refused():
    inputs = outputs({"image": jnp.ones((4, 8)), "text": jnp.ones((4, 6))})
    with pytest.raises(
        InputError, match="one width to compare, found {'image': 8, 'text': 6}: give the heads"
    ):
        objectives.InfoNCE("image", "text").init(jax.random.key(0), inputs)


SCALARS = {
    "InfoNCE": (objectives.InfoNCE("image", "text"), {"log_scale"}),
    "SigmoidPairs": (objectives.SigmoidPairs("image", "text"), {"log_scale", "bias"}),
    "MultiwayInfoNCE": (
        objectives.MultiwayInfoNCE(("image", "text")),
        {"log_scale_image_text"},
    ),
}


@pytest.mark.parametrize("name", SCALARS)
def test_learned_scalars_are_logged_and_never_decayed(name):
    module, scalars = SCALARS[name]
    (inputs,) = jax.tree.map(jnp.asarray, pair_outputs())
    params = nn.unbox(module.init(jax.random.key(0), inputs))["params"]
    decays_by_name = {
        path_name(path): decays for path, decays in jax.tree.leaves_with_path(decay_mask(params))
    }
    assert decays_by_name == dict.fromkeys(scalars, False)
    optimizer = AdamW(peak_learning_rate=1.0, weight_decay=1.0).make(10)
    zero_grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero_grads, optimizer.init(params), params)
    assert all((x == 0).all() for x in jax.tree.leaves(updates))
    _, metrics = values(module.apply)({"params": params}, inputs)
    assert set(metrics) - {"accuracy"} == {scalar.replace("log_scale", "temperature") for scalar in scalars}


@pytest.mark.parametrize(
    "x, grad, expected", [(4.0, -1.0, -1.0), (5.0, -1.0, 0.0), (5.0, 1.0, 1.0), (4.0, 1.0, 1.0)]
)
def test_clip_max_passes_only_gradients_that_lower_x_at_the_bound(x, grad, expected):
    """The bound is 4.6; descent moves against the gradient."""
    value, vjp = jax.vjp(lambda x: clip_max(x, np.log(100.0)), jnp.float32(x))
    np.testing.assert_allclose(value, min(x, np.log(100.0)))
    assert vjp(jnp.float32(grad))[0] == expected
