"""Balances that weigh losses: each against NumPy, and problems on which fixed weights fail."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import balance
from mmjax.balance import BalanceInputs
from mmjax.errors import InputError

NAMES = ("words", "pairs", "tags")
# "steps objectives"; two batches have no example for the third objective.
LOSSES = np.random.default_rng(0).uniform(0.5, 3.0, (30, 3)).astype(np.float32)
LOSSES[[4, 9], 2] = 0
GRADIENTS = np.random.default_rng(1).normal(size=(30, 3, 5)).astype(np.float32) * [[[1.0], [3.0], [0.2]]]
GRADIENTS[[4, 9], 2] = 0


def weights_of(chosen: balance.Balance, losses=LOSSES, gradients=GRADIENTS) -> np.ndarray:
    """The weights of every step: "steps N"."""

    def one(state, x):
        step, losses, gradients = x
        inputs = BalanceInputs(
            names=NAMES[: losses.shape[0]], step=step, key=jax.random.key(0), losses=losses,
            gram=gradients @ gradients.T if chosen.reads_gradients else None,
        )  # fmt: skip
        output = chosen(state, inputs)
        assert output.loss_weights is output.grad_weights
        return output.state, output.loss_weights

    x = (jnp.arange(len(losses)), jnp.asarray(losses), jnp.asarray(gradients, jnp.float32))
    return np.asarray(jax.lax.scan(one, chosen.init(losses.shape[1]), x)[1])


class Adam:
    """Kingma & Ba 2015, algorithm 1, with b2 = 0.99."""

    def __init__(self, learning_rate: float, num: int):
        self.learning_rate, self.t, self.m, self.v = learning_rate, 0, np.zeros(num), np.zeros(num)

    def change(self, slope):
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * slope, 0.99 * self.v + 0.01 * slope**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.99**self.t)
        return -self.learning_rate * m / (np.sqrt(v) + 1e-8)


def test_fixed_weights_are_one():
    assert (weights_of(balance.Fixed()) == 1).all()


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("linear", [0, 0, 0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 2]),
        ("constant", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2]),
    ],
)
def test_schedules(kind, expected):
    chosen = balance.Scheduled(schedules={"pairs": ((5, 0.0), (10, 1.0), (12, 2.0))}, kind=kind)
    found = weights_of(chosen)[:14]
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-6, atol=1e-7)
    assert (found[:, [0, 2]] == 1).all()


def test_uncertainty():
    chosen, expected = balance.Uncertainty(learning_rate=0.1, max_log_variance=1.5), []
    s, adam = np.zeros(3), Adam(0.1, 3)
    for losses in LOSSES:
        expected.append(np.exp(-s))
        valid = losses > 0
        # d/ds of exp(-s) loss + s / 2
        change = adam.change(np.where(valid, -np.exp(-s) * losses + 0.5, 0))
        s = np.clip(s + np.where(valid, change, 0), -1.5, 1.5)
    np.testing.assert_allclose(weights_of(chosen), expected, rtol=1e-5)
    assert np.exp(-s).min() == pytest.approx(np.exp(-1.5)), "max_log_variance is never reached: lower it"


def test_dynamic_weight_average():
    chosen, expected = balance.DynamicWeightAverage(window=4, temperature=0.7), []
    means: list[np.ndarray] = []
    for step in range(len(LOSSES)):
        ratio = means[-1] / means[-2] if len(means) > 1 else np.ones(3)
        expected.append(3 * np.exp(ratio / 0.7) / np.exp(ratio / 0.7).sum())
        if (step + 1) % 4 == 0:
            window = LOSSES[step - 3 : step + 1]
            means.append(window.sum(0) / (window > 0).sum(0))
    np.testing.assert_allclose(weights_of(chosen), expected, rtol=1e-5)
    assert np.ptp(expected, axis=1).max() > 0.1


def test_gradnorm():
    chosen, expected = balance.GradNorm(alpha=0.8, learning_rate=0.1), []
    w, adam, first = np.ones(3), Adam(0.1, 3), np.zeros(3)
    for losses, gradients in zip(LOSSES, GRADIENTS, strict=True):
        expected.append(w)
        valid = [i for i in range(3) if losses[i] > 0]
        for i in valid:
            first[i] = first[i] or losses[i]
        norms = np.asarray([np.linalg.norm(g) for g in gradients])
        mean_norm = np.mean([w[i] * norms[i] for i in valid])
        mean_ratio = np.mean([losses[i] / first[i] for i in valid])
        slope = np.zeros(3)
        for i in valid:
            target = mean_norm * (losses[i] / first[i] / mean_ratio) ** 0.8
            slope[i] = np.sign(w[i] * norms[i] - target) * norms[i]
        moved, before = np.maximum(w + adam.change(slope), 1e-3), w
        w = w.copy()
        for i in valid:
            w[i] = moved[i] * sum(before[valid]) / sum(moved[valid])
    np.testing.assert_allclose(weights_of(chosen), expected, rtol=2e-4, atol=2e-5)  # sums of small weights
    np.testing.assert_allclose(weights_of(chosen).sum(1), 3, rtol=1e-5)
    np.testing.assert_array_equal(weights_of(chosen)[[4, 9], 2], weights_of(chosen)[[5, 10], 2])


def descend(chosen: balance.Balance, losses_of, start, learning_rate=0.02, num_steps=3000) -> np.ndarray:
    """The losses after gradient descent with a balance."""

    def one(carry, step):
        x, state = carry
        losses, gradients = losses_of(x), jax.jacobian(losses_of)(x)
        inputs = BalanceInputs(
            names=NAMES[: len(losses)], step=step, key=jax.random.key(0), losses=losses,
            gram=gradients @ gradients.T,
        )  # fmt: skip
        output = chosen(state, inputs)
        update = (output.grad_weights[:, None] * gradients).sum(0)
        # A bounded step length for all balances, which then differ by the direction only.
        update *= learning_rate / jnp.maximum(jnp.linalg.norm(update), 1.0)
        return (x - update, output.state), None

    carry = (jnp.asarray(start), chosen.init(len(losses_of(jnp.asarray(start)))))
    (x, _), _ = jax.jit(lambda carry: jax.lax.scan(one, carry, jnp.arange(num_steps)))(carry)
    return np.asarray(losses_of(x))


def two_scales(x):
    """The same task twice, with losses in the ratio 1000 to 1. Neither loss can reach zero."""
    near = jnp.stack([((x - t) ** 2).sum() for t in (jnp.array([0.5, 0.0]), jnp.array([-0.5, 0.0]))])
    return (near + 1.0) * jnp.array([1000.0, 1.0])


@pytest.mark.parametrize(
    "chosen", [balance.Uncertainty(max_log_variance=10.0), balance.GradNorm()], ids=lambda b: type(b).__name__
)
def test_losses_of_two_scales(chosen):
    """The plain sum minimizes the larger loss only; these end half-way, with equal relative losses."""
    units = np.array([1000.0, 1.0])
    fixed = descend(balance.Fixed(), two_scales, [0.1, 3.0]) / units
    assert fixed[0] < 1.02 and fixed[1] > 1.9
    found = descend(chosen, two_scales, [0.1, 3.0]) / units
    np.testing.assert_allclose(found, 1.25, atol=0.1)


def test_dynamic_weight_average_speeds_up_the_slower_objective():
    """Two objectives with separate parameters; the second has a 50 times smaller curvature."""

    def losses_of(x):
        return jnp.stack([x[0] ** 2 / 2, 0.02 * x[1] ** 2 / 2])

    def after(chosen):
        return descend(chosen, losses_of, [1.0, 1.0], learning_rate=0.2, num_steps=150)

    fixed = after(balance.Fixed())
    found = after(balance.DynamicWeightAverage(window=5, temperature=0.1))
    goal = 0.002
    assert fixed[0] < goal < fixed[1]
    assert found.max() < goal


def test_a_schedule_avoids_a_local_minimum():
    """The second objective has two minima. Training the first one alone at first leads to the lower one."""

    def losses_of(x):
        return jnp.stack([(x[0] - 1) ** 2 / 10, 4 * (x[0] ** 2 - 1) ** 2 - 0.5 * x[0]])

    late = balance.Scheduled(schedules={"pairs": ((1000, 0.0), (2000, 1.0))})
    fixed, found = (descend(b, losses_of, [-1.5]) for b in (balance.Fixed(), late))
    assert fixed[1] > 0 and found[1] < -0.4 and found[0] < fixed[0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: balance.Scheduled(schedules={"words": ()}), r"schedules\['words'\] expects .* found \(\)"),
        (
            lambda: balance.Scheduled(schedules={"words": ((5, 1.0), (5, 2.0))}),
            "with increasing steps, found",
        ),
        (lambda: balance.Scheduled(schedules={}, kind="cubic"), "'linear' or 'constant', found str 'cubic'"),
        (lambda: balance.DynamicWeightAverage(window=0), "window' expects int from 1 to .*, found int 0"),
        (
            lambda: balance.DynamicWeightAverage(temperature=0.0),
            "temperature' expects float above 0, finite, found float 0.0",
        ),
    ],
)
def test_invalid_fields_raise(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_balances_compare_by_value():
    assert dataclasses.replace(balance.GradNorm(), alpha=1.0) == balance.GradNorm(alpha=1.0)
