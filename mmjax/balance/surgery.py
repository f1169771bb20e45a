"""Balances that mend the objectives' gradients on the shared parameters before they are added up.

All that these methods ask of the gradients are inner products, so each is a rule from the Gram matrix to a
coefficient an objective, and no gradient is copied or changed. Other parameters get the plain weighted sum.

Coefficients are scaled so that gradients that agree give their sum, as `Fixed` does: where a paper averages,
the mean is multiplied by the number of objectives. An objective without a gradient (the batch holds nothing
for it, or it does not reach the shared parameters) takes no part; else MGDA would stand still for it.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int32

from mmjax.balance.base import Balance, BalanceInputs, BalanceOutput
from mmjax.balance.solvers import TINY, bargain, lowest_mix, project_conflicts
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surgery(Balance):
    """What they have in common."""

    reads_gradients: ClassVar[bool] = True

    def __call__(self, state: Any, seen: BalanceInputs) -> BalanceOutput:
        assert seen.gram is not None  # the step gives what `reads_gradients` asks for
        size = jnp.maximum(jnp.diagonal(seen.gram).mean(), 1e-30)  # the rules do not depend on it
        gram = seen.gram / size
        there = jnp.diagonal(seen.gram) > 0
        coefficients = jnp.where(there, self.coefficients(gram, there, seen.key), 0.0)
        ones = jnp.ones(len(seen.names), jnp.float32)
        return BalanceOutput(weights=ones, shared=coefficients, state=state)

    @abc.abstractmethod
    def coefficients(
        self, gram: Float32[jax.Array, "N N"], there: Bool[jax.Array, " N"], key: jax.Array
    ) -> Float32[jax.Array, " N"]:
        """Of the gradients with these inner products; what it says of those not `there` is not heard."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PCGrad(Surgery):
    """Each gradient loses what points against others, one by one in random order (Yu et al. 2020)."""

    def coefficients(self, gram, there, key):
        return project_conflicts(gram, orders(key, gram.shape[0]))


def orders(key: jax.Array, num: int) -> Int32[jax.Array, "N N"]:
    """For each objective, an order of all."""
    return jax.vmap(lambda key: jax.random.permutation(key, num))(jax.random.split(key, num))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MGDA(Surgery):
    """The shortest vector among the gradients' mixtures (Desideri 2012; Sener & Koltun 2018, equation 3).

    No objective gets worse along it. It leans to the objective of the smallest gradient.
    """

    iterations: int = 100

    def coefficients(self, gram, there, key):
        zeros = jnp.zeros(gram.shape[0])
        return there.sum() * lowest_mix(gram, there, zeros, jnp.float32(1.0), self.iterations)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CAGrad(Surgery):
    """The best for who gains least, within `c` mean gradients of the mean (Liu et al. 2021, algorithm 1).

    c: 0 is the plain sum; towards 1 and beyond, more like MGDA.
    """

    c: float = 0.4
    iterations: int = 100

    def __post_init__(self):
        if not 0 <= self.c:
            raise InputError(f"CAGrad.c expects a number of at least 0, found {self.c}")

    def coefficients(self, gram, there, key):
        mean = there / jnp.maximum(there.sum(), 1).astype(jnp.float32)
        reach = self.c * jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0))
        mix = lowest_mix(gram, there, gram @ mean, reach, self.iterations)
        length = jnp.sqrt(jnp.maximum(mix @ gram @ mix, TINY))
        return there.sum() * (mean + reach / length * mix)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NashMTL(Surgery):
    """The bargain in which no one's relative gain could grow without a greater loss (Navon et al. 2022).

    Solved by Newton's method on the cosines rather than the paper's sequence of convex programs, and scaled
    so that the coefficients sum to the number of objectives. Multiplying a loss by a constant changes only
    its coefficient.
    """

    iterations: int = 30

    def coefficients(self, gram, there, key):
        norms = jnp.sqrt(jnp.where(there, jnp.diagonal(gram), 1.0))
        # Who is not there has a row of zeros, and with it no part in the others' bargain.
        shares = jnp.where(there, bargain(gram / (norms[:, None] * norms[None, :]), self.iterations), 0.0)
        coefficients = shares / norms
        return there.sum() * coefficients / jnp.maximum(coefficients.sum(), TINY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanGradients(Surgery):
    """The mean of the gradients; with `normalize` the sum of them, each brought to their mean norm.

    Plain, it is `Fixed` with the shared parameters' gradient divided by the number of objectives.
    """

    normalize: bool = True

    def coefficients(self, gram, there, key):
        count = jnp.maximum(there.sum(), 1)
        if not self.normalize:
            return there / count.astype(jnp.float32)
        norms = jnp.sqrt(jnp.where(there, jnp.diagonal(gram), 0.0))
        return norms.sum() / count / jnp.where(there, norms, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interpolate(Surgery):
    """Between the plain sum of the gradients and what `surgery` makes of them; `amount` 1 is the latter."""

    surgery: Surgery = PCGrad()
    amount: float = 0.5

    def __post_init__(self):
        if not isinstance(self.surgery, Surgery) or self.surgery.shared is not None:
            raise InputError(
                "Interpolate.surgery expects a gradient surgery without `shared` of its own, found "
                f"{self.surgery!r}: Interpolate.shared holds for both"
            )
        if not 0 <= self.amount <= 1:
            raise InputError(f"Interpolate.amount expects a number from 0 to 1, found {self.amount}")

    def coefficients(self, gram, there, key):
        return 1 - self.amount + self.amount * self.surgery.coefficients(gram, there, key)
