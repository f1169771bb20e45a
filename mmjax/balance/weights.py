"""Balances that give each loss a weight, the same for all parameters.

An objective for which a batch holds nothing has the loss 0; it neither changes its own weight nor others'.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from mmjax.balance.base import Balance, BalanceInputs, BalanceOutput, weighted
from mmjax.errors import InputError

LEAST_WEIGHT = 1e-3  # of GradNorm: at 0 or below, an objective would be unlearned
# A shorter memory than usual: a loss of 1000 gives first slopes that would else hold all later steps down.
adam = functools.partial(optax.adam, b2=0.99)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheduled(Balance):
    """Weights that follow the step: {objective: ((step, weight), ...)}, steps rising; others keep 1.

    "linear" joins the points, "constant" keeps each until the next; both are level before the first point and
    after the last.
    """

    schedules: Mapping[str, tuple[tuple[int, float], ...]]
    kind: Literal["linear", "constant"] = "linear"

    def __post_init__(self):
        if self.kind not in ("linear", "constant"):
            raise InputError(f"Scheduled.kind expects 'linear' or 'constant', found {self.kind!r}")
        for name, points in self.schedules.items():
            steps = [step for step, _ in points]
            if not points or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
                raise InputError(
                    f"Scheduled.schedules[{name!r}] expects ((step, weight), ...) with rising steps, found "
                    f"{points!r}"
                )

    def objectives(self) -> tuple[str, ...]:
        return tuple(self.schedules)

    def __call__(self, state: Any, seen: BalanceInputs) -> BalanceOutput:
        weights = [
            self._at(seen.step, self.schedules[name]) if name in self.schedules else jnp.float32(1.0)
            for name in seen.names
        ]
        return weighted(jnp.stack(weights), state)

    def _at(self, step: jax.Array, points: tuple[tuple[int, float], ...]) -> jax.Array:
        steps, weights = (jnp.asarray(column, jnp.float32) for column in zip(*points, strict=True))
        if self.kind == "linear":
            return jnp.interp(step.astype(jnp.float32), steps, weights)
        return weights[jnp.maximum((steps <= step.astype(jnp.float32)).sum() - 1, 0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uncertainty(Balance):
    """Homoscedastic uncertainty (Kendall, Gal & Cipolla 2018, equation 10): ``sum exp(-s) loss + s / 2``.

    The log variances s are learned by an Adam of their own, so the optimizer's weight decay, clipping and
    schedule do not touch them, and are held within +-`limit`. Weights start at 1; each objective's comes to
    rest at 1 / (2 loss).
    """

    learning_rate: float = 0.01
    limit: float = 5.0

    def init(self, num_objectives: int) -> Any:
        zeros = jnp.zeros(num_objectives, jnp.float32)
        return {"log_variance": zeros, "adam": adam(self.learning_rate).init(zeros)}

    def __call__(self, state: Any, seen: BalanceInputs) -> BalanceOutput:
        before = state["log_variance"]
        slope = jnp.where(seen.losses != 0, 0.5 - jnp.exp(-before) * seen.losses, 0.0)
        change, adam_state = adam(self.learning_rate).update(slope, state["adam"])
        after = jnp.clip(before + jnp.where(seen.losses != 0, change, 0.0), -self.limit, self.limit)
        return weighted(jnp.exp(-before), {"log_variance": after, "adam": adam_state})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicWeightAverage(Balance):
    """DWA (Liu, Johns & Davison 2019, equation 7): who has fallen least over two windows weighs most.

    ``N softmax(r / temperature)`` with r the mean loss of the last `window` steps over that of the window
    before; 1 until both are known. The paper's window is an epoch.
    """

    window: int = 100
    temperature: float = 2.0

    def __post_init__(self):
        if self.window < 1 or self.temperature <= 0:
            raise InputError(
                "DynamicWeightAverage expects a window of at least 1 and a temperature above 0, found "
                f"window={self.window}, temperature={self.temperature}"
            )

    def init(self, num_objectives: int) -> Any:
        zeros = jnp.zeros(num_objectives, jnp.float32)
        return {"sum": zeros, "count": zeros, "last": zeros, "before": zeros}

    def __call__(self, state: Any, seen: BalanceInputs) -> BalanceOutput:
        last, before = state["last"], state["before"]
        known = (last > 0) & (before > 0)
        ratio = jnp.where(known, last / jnp.where(known, before, 1.0), 1.0)
        weights = len(seen.names) * jax.nn.softmax(ratio / self.temperature)

        total, count = state["sum"] + seen.losses, state["count"] + (seen.losses != 0)
        ends = (seen.step + 1) % self.window == 0
        mean = jnp.where(count > 0, total / jnp.maximum(count, 1), last)
        kept = {"sum": total, "count": count, "last": last, "before": before}
        new = {"sum": 0 * total, "count": 0 * count, "last": mean, "before": last}
        return weighted(weights, {name: jnp.where(ends, new[name], kept[name]) for name in kept})


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradNorm(Balance):
    """Weights by which the objectives learn at one rate (Chen et al. 2018, equations 1 and 2, algorithm 1).

    Each weighted gradient norm on the shared parameters is drawn towards ``mean norm x r^alpha``, r being the
    loss relative to its first value, over the mean of that. The weights have an Adam of their own, and what
    they sum to stays N. alpha: larger pulls harder at those that lag; 0 makes all norms equal.
    """

    alpha: float = 1.5
    learning_rate: float = 0.025

    reads_gradients: ClassVar[bool] = True

    def init(self, num_objectives: int) -> Any:
        ones = jnp.ones(num_objectives, jnp.float32)
        return {
            "weights": ones,
            "first_losses": 0 * ones,
            "adam": adam(self.learning_rate).init(ones),
        }

    def __call__(self, state: Any, seen: BalanceInputs) -> BalanceOutput:
        weights, norms = state["weights"], jnp.sqrt(jnp.diagonal(seen.gram).clip(0))
        there = (seen.losses > 0) & (norms > 0)
        first = jnp.where(there & (state["first_losses"] == 0), seen.losses, state["first_losses"])
        count = jnp.maximum(there.sum(), 1)
        ratio = jnp.where(there, seen.losses / jnp.where(there, first, 1.0), 0.0)
        rate = jnp.where(there, ratio / jnp.maximum(ratio.sum() / count, 1e-12), 1.0)
        weighted_norms = jnp.where(there, weights * norms, 0.0)
        target = weighted_norms.sum() / count * rate**self.alpha
        slope = jnp.where(there, jnp.sign(weighted_norms - target) * norms, 0.0)
        change, adam_state = adam(self.learning_rate).update(slope, state["adam"])
        moved = jnp.maximum(weights + change, LEAST_WEIGHT)
        # Those that are not there keep their weights, and the rest what they had together.
        together = jnp.where(there, weights, 0.0).sum() / jnp.maximum(
            jnp.where(there, moved, 0.0).sum(), 1e-12
        )
        after = jnp.where(there, moved * together, weights)
        return weighted(weights, {"weights": after, "first_losses": first, "adam": adam_state})
