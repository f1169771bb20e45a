"""Gradient surgery: balances that combine the objectives' gradients on the shared parameters.

Each method computes one coefficient for each objective from the Gram matrix (inner products) of the
gradients; the update is the sum of the gradients times their coefficients. Parameters that are not shared get
the plain weighted sum.

Coefficients are scaled so that equal gradients give their sum, as `Fixed` does: where a paper averages, the
mean is multiplied by the number of objectives. An objective whose gradient is zero (the batch has no example
for it, or it does not depend on the shared parameters) is left out; otherwise MGDA would return zero.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int32

from mmjax.balance.base import Balance, BalanceInputs, BalanceOutput
from mmjax.balance.solvers import TINY, minimize_over_simplex, nash_bargaining, project_conflicts
from mmjax.errors import InputError
from mmjax.ranges import Count, Fraction, NonNegative


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surgery(Balance):
    """The base class of gradient surgery."""

    reads_gradients: ClassVar[bool] = True

    def __call__(self, state: Any, inputs: BalanceInputs) -> BalanceOutput:
        assert inputs.gram is not None  # because of `reads_gradients`
        size = jnp.maximum(jnp.diagonal(inputs.gram).mean(), 1e-30)  # no method depends on the overall scale
        gram = inputs.gram / size
        valid = jnp.diagonal(inputs.gram) > 0
        coefficients = jnp.where(valid, self.coefficients(gram, valid, inputs.key), 0.0)
        ones = jnp.ones(len(inputs.names), jnp.float32)
        return BalanceOutput(loss_weights=ones, grad_weights=coefficients, state=state)

    @abc.abstractmethod
    def coefficients(
        self, gram: Float32[jax.Array, "N N"], valid: Bool[jax.Array, " N"], key: jax.Array
    ) -> Float32[jax.Array, " N"]:
        """A coefficient for each of N gradients; ignored where the gradient is zero (`valid` is False)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PCGrad(Surgery):
    """Projects each gradient on the normal planes of conflicting ones, in random order (Yu et al. 2020)."""

    def coefficients(self, gram, valid, key):
        return project_conflicts(gram, random_orders(key, gram.shape[0]))


def random_orders(key: jax.Array, num: int) -> Int32[jax.Array, "N N"]:
    """For each of `num` objectives, a random order of all of them."""
    return jax.vmap(lambda key: jax.random.permutation(key, num))(jax.random.split(key, num))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MGDA(Surgery):
    """The convex combination of gradients of least norm (Desideri 2012; Sener & Koltun 2018, equation 3).

    To first order, no loss increases. Objectives with small gradients get large weights.
    """

    num_iterations: Count = 100

    def coefficients(self, gram, valid, key):
        zeros = jnp.zeros(gram.shape[0])
        return valid.sum() * minimize_over_simplex(gram, valid, zeros, jnp.float32(1.0), self.num_iterations)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CAGrad(Surgery):
    """Maximizes the smallest decrease of a loss, near the mean gradient (Liu et al. 2021, algorithm 1).

    c: the allowed distance from the mean gradient, relative to its norm. 0 is the plain sum; 1 or more
      approaches MGDA.
    """

    c: NonNegative = 0.4
    num_iterations: Count = 100

    def coefficients(self, gram, valid, key):
        mean = valid / jnp.maximum(valid.sum(), 1).astype(jnp.float32)
        radius = self.c * jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0))
        w = minimize_over_simplex(gram, valid, gram @ mean, radius, self.num_iterations)
        length = jnp.sqrt(jnp.maximum(w @ gram @ w, TINY))
        return valid.sum() * (mean + radius / length * w)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NashMTL(Surgery):
    """Nash bargaining: maximizes the sum of the logs of the decreases in loss (Navon et al. 2022).

    Solved by Newton's method on the cosines instead of the paper's sequence of convex programs. Coefficients
    sum to the number of objectives. The direction of the update does not depend on the scale of any loss.
    """

    num_iterations: Count = 30

    def coefficients(self, gram, valid, key):
        norms = jnp.sqrt(jnp.where(valid, jnp.diagonal(gram), 1.0))
        # A zero gradient has a row of zeros among the cosines, so it does not change the others' solution.
        solution = nash_bargaining(gram / (norms[:, None] * norms[None, :]), self.num_iterations)
        coefficients = jnp.where(valid, solution, 0.0) / norms
        return valid.sum() * coefficients / jnp.maximum(coefficients.sum(), TINY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanGradients(Surgery):
    """With `normalize` the sum of the gradients, each rescaled to their mean norm; without it their mean.

    The mean is `Fixed` with the shared parameters' gradient divided by the number of objectives.
    """

    normalize: bool = True

    def coefficients(self, gram, valid, key):
        count = jnp.maximum(valid.sum(), 1)
        if not self.normalize:
            return valid / count.astype(jnp.float32)
        norms = jnp.sqrt(jnp.where(valid, jnp.diagonal(gram), 0.0))
        return norms.sum() / count / jnp.where(valid, norms, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interpolate(Surgery):
    """Interpolates between the plain sum of gradients (`amount` 0) and `surgery` (`amount` 1)."""

    surgery: Surgery = PCGrad()
    amount: Fraction = 0.5

    def __post_init__(self):
        if self.surgery.shared_params is not None:
            raise InputError(
                "Interpolate.surgery expects a gradient surgery with shared_params=None, found "
                f"{self.surgery!r}: Interpolate.shared_params holds for both"
            )

    def coefficients(self, gram, valid, key):
        return 1 - self.amount + self.amount * self.surgery.coefficients(gram, valid, key)
