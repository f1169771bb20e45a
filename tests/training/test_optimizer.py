"""Schedules at known points, weight decay, clipping, and accumulation against one large batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.errors import InputError
from mmjax.testing import tiny_batch, tiny_learner
from mmjax.training import AdamW, Lion, Schedule
from mmjax.training.optimizer import Optimizer, decay_mask, path_name

PEAK = 0.5


@pytest.mark.parametrize(
    "schedule, points",
    [
        (Schedule(kind="constant"), {0: 1, 100: 1}),
        (Schedule(kind="constant", warmup_steps=10), {0: 0, 5: 0.5, 10: 1, 100: 1}),
        (Schedule(warmup_steps=20), {0: 0, 10: 0.5, 20: 1, 60: 0.5, 100: 0}),
        (Schedule(kind="cosine", final_fraction=0.1), {0: 1, 50: 0.55, 100: 0.1}),
        (
            Schedule(kind="wsd", warmup_steps=10, decay_fraction=20 / 101, final_fraction=0.1),
            {0: 0, 5: 0.5, 10: 1, 80: 1, 90: 0.55, 100: 0.1},
        ),
        # At four times the update half the learning rate; at the end linearly to zero.
        (
            Schedule(kind="rsqrt", warmup_steps=10, decay_fraction=20 / 101),
            {0: 0, 5: 0.5, 10: 1, 40: 0.5, 80: 8**-0.5, 90: 0.5 / 3, 100: 0},
        ),
    ],
)
def test_schedules(schedule, points):
    """In a run of 101 updates, whose last has number 100."""
    optimizer = AdamW(peak_learning_rate=PEAK, schedule=schedule)
    for update, expected in points.items():
        np.testing.assert_allclose(optimizer.learning_rate(101, update), PEAK * expected, atol=1e-6)
        # The same under tracing, as inside the optimizer.
        traced = jax.jit(schedule.make(PEAK, 101))(jnp.int32(update))
        np.testing.assert_allclose(traced, PEAK * expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "wsd", "rsqrt"])
@pytest.mark.parametrize("num_updates", [2, 3, 10, 101])
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_the_last_update_has_the_final_learning_rate(kind, num_updates, warmup):
    schedule = Schedule(kind=kind, warmup_steps=min(warmup, num_updates - 2), final_fraction=0.25)
    rates = [float(schedule.make(PEAK, num_updates)(update)) for update in range(num_updates)]
    start = schedule.warmup_steps
    root = (max(start, 1) / (max(start, 1) + num_updates - 1 - start)) ** 0.5 if kind == "rsqrt" else 1.0
    np.testing.assert_allclose(rates[-1], 0.25 * PEAK * root, rtol=1e-6)
    np.testing.assert_allclose(rates[start], PEAK, rtol=1e-6)
    assert all(a >= b for a, b in zip(rates[start:], rates[start + 1 :], strict=False))


def test_cosine_against_its_closed_form():
    schedule = Schedule(warmup_steps=4, final_fraction=0.1)
    found = [float(schedule.make(1.0, 20)(update)) for update in range(20)]
    share = np.arange(16) / 15  # from the first update after the warm-up to the last
    expected = [0, 0.25, 0.5, 0.75, *(0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * share)))]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_decay_takes_its_fraction_of_the_updates():
    schedule = Schedule(kind="wsd", warmup_steps=8, decay_fraction=0.2)
    rates = [float(schedule.make(1.0, 10)(update)) for update in range(10)]
    np.testing.assert_allclose(rates, [*np.arange(8) / 8, 1, 0], atol=1e-6)  # the tightest that fits
    rates = [float(Schedule(kind="wsd", decay_fraction=0.5).make(1.0, 10)(update)) for update in range(10)]
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-6)


def test_schedules_count_updates_not_steps():
    schedule = Schedule(warmup_steps=10)
    optimizer = AdamW(peak_learning_rate=PEAK, schedule=schedule, accumulation_steps=4)
    rates = [optimizer.learning_rate(404, step) for step in (0, 3, 4, 40, 220)]
    np.testing.assert_allclose(rates, [PEAK * fraction for fraction in (0, 0, 0.1, 1, 0.5)], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "num_steps", "message"),
    [
        ({"schedule": Schedule(warmup_steps=100)}, 100, r"optimizer.schedule.warmup_steps=100 does not fit a "
         r"run of 100 updates \(num_steps=100\): expected at most 99.*add optimizer.schedule.warmup_steps="),
        ({"schedule": Schedule(warmup_steps=30), "accumulation_steps": 4}, 100,
         r"warmup_steps=30 does not fit a run of 25 updates \(num_steps=100 / accumulation_steps=4\)"),
        ({"schedule": Schedule(kind="wsd", warmup_steps=81)}, 100, "expected at most 80"),
        ({"accumulation_steps": 16}, 10, "accumulation_steps expects at most num_steps=10, found 16"),
        ({"accumulation_steps": 4}, 10, "the last 2 steps would change nothing; use num_steps=12 or 8"),
    ],
)  # fmt: skip
def test_steps_without_effect_and_a_warmup_that_does_not_fit_are_refused(fields, num_steps, message):
    with pytest.raises(InputError, match=message):
        AdamW(peak_learning_rate=1.0, **fields).make(num_steps)


def test_the_base_class_cannot_be_made():
    with pytest.raises(TypeError, match="abstract class Optimizer"):
        Optimizer(peak_learning_rate=1.0)


def test_weight_decay_applies_to_kernels_and_tables_only():
    """On a whole model in flax's boxes, including scanned layers, whose biases have two axes."""
    learner, key = tiny_learner(), jax.random.key(0)
    batch = jax.tree.map(jnp.asarray, tiny_batch())
    boxed = jax.eval_shape(lambda: learner.init({"params": key, "views": key}, batch)["params"])
    names = {True: set(), False: set()}
    for path, decays in jax.tree.leaves_with_path(decay_mask(boxed)):
        names[decays].add(path_name(path).rsplit("/", 1)[-1])
    assert {"kernel", "table", "types"} <= names[True]
    assert {"bias", "scale", "log_scale"} <= names[False]
    assert not names[True] & {"bias", "scale", "log_scale"} and not names[False] & {
        "kernel",
        "table",
        "types",
    }


PARAMS = {"kernel": np.full((2, 2), 3.0, np.float32), "bias": np.full(2, 3.0, np.float32)}


def one_update(optimizer, grads: dict, params: dict = PARAMS) -> dict:
    transformation = optimizer.make(10)
    update = jax.jit(transformation.update)
    return update(grads, transformation.init(params), params)[0]


def test_with_zero_gradients_only_weight_decay_changes_parameters():
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    for kind in (AdamW, Lion):
        made = kind(peak_learning_rate=0.1, weight_decay=0.2, schedule=Schedule(kind="constant"))
        updates = one_update(made, zeros)
        np.testing.assert_allclose(updates["kernel"], -0.1 * 0.2 * 3, rtol=1e-6)
        np.testing.assert_array_equal(updates["bias"], 0)


def test_first_updates_against_formulas():
    grads = {
        "kernel": np.array([[1e-3, -2.0], [0.5, 4.0]], np.float32),
        "bias": np.array([-1.0, 1.0], np.float32),
    }
    constant = Schedule(kind="constant")
    # Adam's first step is g / (|g| + epsilon), Lion's is its sign.
    adam = one_update(AdamW(peak_learning_rate=0.1, epsilon=1e-3, clip_norm=None, schedule=constant), grads)
    jax.tree.map(
        lambda u, g: np.testing.assert_allclose(u, -0.1 * g / (abs(g) + 1e-3), rtol=1e-4), adam, grads
    )
    lion = one_update(Lion(peak_learning_rate=0.1, schedule=constant), grads)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -0.1 * np.sign(g), rtol=1e-6), lion, grads)


@pytest.mark.parametrize("clip, factor", [(1.0, 0.2), (10.0, 1.0), (None, 1.0)])
def test_gradients_are_clipped_by_their_global_norm(clip, factor):
    """With a large epsilon, Adam's first update is proportional to the clipped gradient."""
    grads = {
        "kernel": np.array([[3.0, 0], [0, 0]], np.float32),
        "bias": np.array([0, 4.0], np.float32),
    }  # norm 5
    made = AdamW(peak_learning_rate=1.0, epsilon=1e6, clip_norm=clip, schedule=Schedule(kind="constant"))
    updates = one_update(made, grads)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -1e-6 * factor * g, rtol=1e-4), updates, grads)


@pytest.mark.parametrize("kind", [AdamW, Lion])
def test_accumulation_equals_one_large_batch(kind):
    """For a loss that is a mean over rows; three updates, so that moments and schedule matter."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 8, 2)).astype(np.float32), rng.normal(size=(3, 8, 2)).astype(np.float32)

    def train(accumulation_steps: int) -> dict:
        optimizer = kind(
            peak_learning_rate=0.1, weight_decay=0.1, clip_norm=0.5, accumulation_steps=accumulation_steps,
            schedule=Schedule(warmup_steps=1),
        ).make(3 * accumulation_steps)  # fmt: skip

        @jax.jit
        def step(params, state, x, y):
            loss = lambda p: jnp.square(x @ p["kernel"] + p["bias"][None] - y).mean()  # noqa: E731
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        params, state = PARAMS, optimizer.init(PARAMS)
        for update in range(3):
            before = params
            for part in range(accumulation_steps):
                jax.tree.map(np.testing.assert_array_equal, params, before)  # no update before the last part
                rows = slice(part * 8 // accumulation_steps, (part + 1) * 8 // accumulation_steps)
                params, state = step(params, state, x[update, rows], y[update, rows])
        return params

    check = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(check, train(4), train(1))
