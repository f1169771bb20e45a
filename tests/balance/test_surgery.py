"""Gradient surgery: each method against NumPy, and problems on which the plain sum fails."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_weights import descend, two_scales

from mmjax import balance
from mmjax.balance import BalanceInputs
from mmjax.balance.surgery import random_orders
from mmjax.errors import InputError

pytestmark = pytest.mark.once

KEY = jax.random.key(3)
ALL = (
    balance.PCGrad(), balance.MGDA(), balance.CAGrad(), balance.NashMTL(), balance.MeanGradients(),
    balance.MeanGradients(normalize=False), balance.Interpolate(),
)  # fmt: skip
IDS = [f"{type(b).__name__}{n}" for n, b in enumerate(ALL)]


def gradients(seed: int, num: int = 4) -> np.ndarray:
    """Random gradients "num 6" of several scales; some conflict."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, 6)) * 3.0 ** rng.uniform(-1, 1, (num, 1))


def output_of(chosen: balance.Balance, g: np.ndarray) -> balance.BalanceOutput:
    num = len(g)
    gram = jnp.asarray(g @ g.T, jnp.float32)
    inputs = BalanceInputs(
        names=tuple("abcdef"[:num]), step=jnp.int32(0), key=KEY, losses=jnp.ones(num), gram=gram
    )
    return jax.jit(lambda inputs: chosen((), inputs))(inputs)


def update(chosen: balance.Balance, g: np.ndarray) -> np.ndarray:
    return np.asarray(output_of(chosen, g).grad_weights, np.float64) @ g


def pcgrad(g: np.ndarray) -> np.ndarray:
    order, total = np.asarray(random_orders(KEY, len(g))), 0.0
    for i in range(len(g)):
        projected = g[i].copy()
        for j in order[i]:
            if j != i and projected @ g[j] < 0:
                projected -= projected @ g[j] / (g[j] @ g[j]) * g[j]
        total = total + projected
    return total


def mgda(g: np.ndarray) -> np.ndarray:
    """The best of all faces of the simplex; each face is solved by its normal equations."""
    best = None
    for size in range(1, len(g) + 1):
        for face in map(list, itertools.combinations(range(len(g)), size)):
            corner = np.block(
                [[g[face] @ g[face].T, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]]
            )
            w = np.linalg.solve(corner, np.append(np.zeros(size), 1))[:size]
            if (w >= 0).all() and (best is None or np.linalg.norm(w @ g[face]) < np.linalg.norm(best)):
                best = w @ g[face]
    return len(g) * best


def cagrad(g: np.ndarray, c: float) -> np.ndarray:
    """The dual problem over the simplex, by exponentiated gradient descent."""
    mean, num = g.mean(0), len(g)
    w, radius = np.ones(num) / num, c * np.linalg.norm(mean)
    for _ in range(20_000):
        mix = w @ g
        slope = g @ mean + radius * g @ mix / np.linalg.norm(mix)
        w = w * np.exp(-0.3 * (slope - slope.min()))
        w /= w.sum()
    best = mean + radius * (w @ g) / np.linalg.norm(w @ g)
    return num * best


def nash(g: np.ndarray) -> np.ndarray:
    """Solves alpha_i sum_j alpha_j g_i.g_j = 1 for one i after the other, until convergence."""
    gram, alpha = g @ g.T, np.ones(len(g))
    for _ in range(5000):
        for i in range(len(g)):
            others = gram[i] @ alpha - gram[i, i] * alpha[i]
            alpha[i] = (-others + np.sqrt(others**2 + 4 * gram[i, i])) / (2 * gram[i, i])
    np.testing.assert_allclose(alpha * (gram @ alpha), 1, rtol=1e-9)
    return len(g) * alpha / alpha.sum() @ g


def equal_norms(g: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(g, axis=1, keepdims=True)
    return (norms.mean() * g / norms).sum(0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "chosen, reference, rtol",
    [
        (balance.PCGrad(), pcgrad, 1e-5),
        (balance.MGDA(), mgda, 1e-3),  # 100 iterations reach this accuracy
        (balance.CAGrad(c=0.5), lambda g: cagrad(g, 0.5), 1e-3),
        (balance.NashMTL(), nash, 1e-3),  # the ridge changes the solution by this much
        (balance.MeanGradients(), equal_norms, 1e-5),
        (balance.MeanGradients(normalize=False), lambda g: g.mean(0), 1e-5),
        (balance.Interpolate(amount=0.25), lambda g: 0.75 * g.sum(0) + 0.25 * pcgrad(g), 1e-5),
    ],
    ids=["PCGrad", "MGDA", "CAGrad", "NashMTL", "MeanGradients", "plain mean", "Interpolate"],
)
def test_against_numpy(chosen, reference, rtol, seed):
    g = gradients(seed)
    assert (np.triu(g @ g.T) < 0).any()
    expected = reference(g)
    np.testing.assert_allclose(update(chosen, g), expected, rtol=0, atol=rtol * np.abs(g).max())
    assert np.abs(expected - g.sum(0)).max() > 0.05 * np.abs(g).max()


@pytest.mark.parametrize("chosen", ALL, ids=IDS)
def test_zero_gradients_are_left_out(chosen):
    g = gradients(0)
    if isinstance(chosen, balance.PCGrad | balance.Interpolate):
        g = g[:2]  # PCGrad depends on a random order, except for two gradients
    with_zero = np.insert(g, len(g) // 2, 0, axis=0)
    output = output_of(chosen, with_zero)
    assert np.isfinite(output.grad_weights).all() and (np.asarray(output.loss_weights) == 1).all()
    np.testing.assert_allclose(update(chosen, with_zero), update(chosen, g), atol=1e-4 * np.abs(g).max())
    assert (np.asarray(output_of(chosen, 0 * g).grad_weights) == 0).all()


@pytest.mark.parametrize("chosen", [b for b in ALL if b != balance.MeanGradients(normalize=False)], ids=repr)
def test_equal_gradients_give_their_sum(chosen):
    g = np.tile(gradients(1)[:1], (3, 1))
    scale = 1 + chosen.c if isinstance(chosen, balance.CAGrad) else 1
    np.testing.assert_allclose(update(chosen, g), scale * g.sum(0), rtol=1e-4)


@pytest.mark.parametrize("chosen", ALL, ids=IDS)
def test_opposite_gradients_give_finite_coefficients(chosen):
    g = gradients(2)[:1]
    assert np.isfinite(output_of(chosen, np.concatenate([g, -g])).grad_weights).all()


@pytest.mark.parametrize("size", [1e-12, 1e12])
@pytest.mark.parametrize("chosen", ALL, ids=IDS)
def test_coefficients_do_not_depend_on_the_common_scale(chosen, size):
    expected, found = output_of(chosen, gradients(3)), output_of(chosen, gradients(3) * size)
    np.testing.assert_allclose(found.grad_weights, expected.grad_weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("chosen", [balance.MGDA(), balance.NashMTL(), balance.MeanGradients()], ids=repr)
def test_no_loss_increases_beside_one_of_another_scale(chosen):
    """The sum follows the larger loss and increases the smaller one."""
    units, start = np.array([1000.0, 1.0]), [-0.2, 0.3]
    before = np.asarray(two_scales(jnp.asarray(start))) / units
    fixed = descend(balance.Fixed(), two_scales, start) / units
    assert fixed[1] > before[1] + 0.5
    found = descend(chosen, two_scales, start) / units
    assert (found < before + 0.1).all()


def toy(x):
    """Two objectives with conflicting gradients (Liu et al. 2021, appendix B)."""
    a, b = x

    def log(value):
        return jnp.log(jnp.maximum(jnp.abs(value), 5e-6)) + 6

    upper, lower = jnp.maximum(jnp.tanh(b / 2), 0), jnp.maximum(jnp.tanh(-b / 2), 0)
    first = log(0.5 * (-a - 7) - jnp.tanh(-b)), log(0.5 * (-a + 3) - jnp.tanh(-b) + 2)
    second = [((-a + side) ** 2 + 0.1 * (-b - 8) ** 2) / 10 - 20 for side in (7, -7)]
    return jnp.stack([upper * f + lower * s for f, s in zip(first, second, strict=True)])


def after_adam(chosen: balance.Balance, start, num_steps: int = 60_000) -> np.ndarray:
    """The losses of `toy` after Adam at 1e-3, as in the paper."""
    optimizer = optax.adam(1e-3)

    def one(carry, step):
        x, opt_state = carry
        g = jax.jacobian(toy)(x)
        inputs = BalanceInputs(
            names=("a", "b"), step=step, key=jax.random.fold_in(KEY, step), losses=toy(x), gram=g @ g.T
        )
        grad = (chosen((), inputs).grad_weights[:, None] * g).sum(0)
        updates, opt_state = optimizer.update(grad, opt_state)
        return (x + updates, opt_state), None

    start = jnp.asarray(start)
    carry = start, optimizer.init(start)
    (x, _), _ = jax.jit(lambda carry: jax.lax.scan(one, carry, jnp.arange(num_steps)))(carry)
    return np.asarray(toy(x))


START = (-8.5, 7.5)  # from here the plain sum gets stuck in a narrow valley


@pytest.fixture(scope="module")
def losses_of_plain_sum() -> np.ndarray:
    return after_adam(balance.Fixed(), START)


@pytest.mark.parametrize(
    "chosen",
    [balance.PCGrad(), balance.MGDA(num_iterations=5), balance.CAGrad(c=0.5, num_iterations=5),
     balance.NashMTL(num_iterations=10), balance.Interpolate(amount=0.9)],
    ids=lambda b: type(b).__name__,
)  # fmt: skip
def test_surgery_leaves_the_valley_in_which_the_plain_sum_gets_stuck(chosen, losses_of_plain_sum):
    """Surgery reaches the Pareto front; the plain sum ends with one loss far above it."""
    found = after_adam(chosen, START)
    assert losses_of_plain_sum.max() > 0, losses_of_plain_sum
    assert found.max() < -8, found


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: balance.CAGrad(c=-0.1), "'CAGrad.c' expects float at least 0, finite, found float -0.1"),
        (
            lambda: balance.Interpolate(amount=1.5),
            "'Interpolate.amount' expects float from 0 to 1, found float 1.5",
        ),
        (
            lambda: balance.Interpolate(surgery=balance.Fixed()),
            "'Interpolate.surgery' expects balance.Surgery, found balance.Fixed",
        ),
        (
            lambda: balance.Interpolate(surgery=balance.MGDA(shared_params=("x",))),
            "Interpolate.shared_params holds for both",
        ),
    ],
)
def test_invalid_fields_raise(make, message):
    with pytest.raises(InputError, match=message):
        make()
