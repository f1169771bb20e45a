"""Balances that give each loss a weight, the same for all parameters.

The loss of an objective is 0 if the batch has no example for it. It then affects neither its own weight nor
others'.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from mmjax.balance.base import Balance, BalanceInputs, BalanceOutput, weigh_losses
from mmjax.errors import InputError
from mmjax.ranges import Count, NonNegative, Positive, Rate, Whole

MIN_WEIGHT = 1e-3  # of GradNorm; a negative weight would maximize the loss
# b2 is lower than usual: a large first gradient (from a loss of 1000, say) must not keep later steps small.
adam = functools.partial(optax.adam, b2=0.99)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheduled(Balance):
    """Weights that depend on the step.

    schedules: {objective: ((step, weight), ...)}, with increasing steps. Other objectives keep weight 1.
    kind: between points, "linear" interpolates and "constant" keeps the weight. Both are constant outside.
    """

    schedules: Mapping[str, tuple[tuple[Whole, NonNegative], ...]]
    kind: Literal["linear", "constant"] = "linear"

    def __post_init__(self):
        for name, points in self.schedules.items():
            steps = [step for step, _ in points]
            if not points or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
                raise InputError(
                    f"Scheduled.schedules[{name!r}] expects ((step, weight), ...) with increasing steps, "
                    f"found {points!r}"
                )

    def required_objectives(self) -> tuple[str, ...]:
        return tuple(self.schedules)

    def __call__(self, state: Any, inputs: BalanceInputs) -> BalanceOutput:
        weights = [
            self._weight_at(inputs.step, self.schedules[name]) if name in self.schedules else jnp.float32(1.0)
            for name in inputs.names
        ]
        return weigh_losses(jnp.stack(weights), state)

    def _weight_at(self, step: jax.Array, points: tuple[tuple[int, float], ...]) -> jax.Array:
        steps, weights = (jnp.asarray(column, jnp.float32) for column in zip(*points, strict=True))
        if self.kind == "linear":
            return jnp.interp(step.astype(jnp.float32), steps, weights)
        return weights[jnp.maximum((steps <= step.astype(jnp.float32)).sum() - 1, 0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uncertainty(Balance):
    """Homoscedastic uncertainty (Kendall, Gal & Cipolla 2018, equation 10): `sum exp(-s) loss + s / 2`.

    A separate Adam learns the log variances s, without the optimizer's weight decay, clipping and schedule.
    Weights exp(-s) start at 1 and converge to 1 / (2 loss). max_log_variance: s is clipped to +- this value.
    """

    learning_rate: Rate = 0.01
    max_log_variance: Positive = 5.0

    def init(self, num_objectives: int) -> Any:
        zeros = jnp.zeros(num_objectives, jnp.float32)
        return {"log_variance": zeros, "adam": adam(self.learning_rate).init(zeros)}

    def __call__(self, state: Any, inputs: BalanceInputs) -> BalanceOutput:
        before = state["log_variance"]
        slope = jnp.where(inputs.losses != 0, 0.5 - jnp.exp(-before) * inputs.losses, 0.0)
        change, adam_state = adam(self.learning_rate).update(slope, state["adam"])
        after = jnp.clip(
            before + jnp.where(inputs.losses != 0, change, 0.0), -self.max_log_variance, self.max_log_variance
        )
        return weigh_losses(jnp.exp(-before), {"log_variance": after, "adam": adam_state})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicWeightAverage(Balance):
    """DWA (Liu, Johns & Davison 2019, equation 7): losses that decrease slowly get large weights.

    The weights are `N softmax(r / temperature)`, where r is the mean loss of the last `window` steps over
    that of the window before, and 1 until both are known. In the paper a window is an epoch.
    """

    window: Count = 100
    temperature: Positive = 2.0

    def init(self, num_objectives: int) -> Any:
        zeros = jnp.zeros(num_objectives, jnp.float32)
        return {"sum": zeros, "count": zeros, "last": zeros, "before": zeros}

    def __call__(self, state: Any, inputs: BalanceInputs) -> BalanceOutput:
        last, before = state["last"], state["before"]
        known = (last > 0) & (before > 0)
        ratio = jnp.where(known, last / jnp.where(known, before, 1.0), 1.0)
        weights = len(inputs.names) * jax.nn.softmax(ratio / self.temperature)

        total, count = state["sum"] + inputs.losses, state["count"] + (inputs.losses != 0)
        window_ends = (inputs.step + 1) % self.window == 0
        mean = jnp.where(count > 0, total / jnp.maximum(count, 1), last)
        same_window = {"sum": total, "count": count, "last": last, "before": before}
        new_window = {"sum": 0 * total, "count": 0 * count, "last": mean, "before": last}
        state = {name: jnp.where(window_ends, new_window[name], same_window[name]) for name in same_window}
        return weigh_losses(weights, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradNorm(Balance):
    """Learned weights that equalize training speeds (Chen et al. 2018, equations 1 and 2, algorithm 1).

    A separate Adam moves each weighted gradient norm on the shared parameters to `mean norm x r^alpha`,
    where r is the loss over its first value, divided by the mean of these ratios. Weights sum to N. alpha:
    larger values give more weight to objectives that learn slowly; 0 makes all norms equal.
    """

    alpha: NonNegative = 1.5
    learning_rate: Rate = 0.025

    reads_gradients: ClassVar[bool] = True

    def init(self, num_objectives: int) -> Any:
        ones = jnp.ones(num_objectives, jnp.float32)
        return {"weights": ones, "first_losses": 0 * ones, "adam": adam(self.learning_rate).init(ones)}

    def __call__(self, state: Any, inputs: BalanceInputs) -> BalanceOutput:
        weights, norms = state["weights"], jnp.sqrt(jnp.diagonal(inputs.gram).clip(0))
        valid = (inputs.losses > 0) & (norms > 0)
        first = jnp.where(valid & (state["first_losses"] == 0), inputs.losses, state["first_losses"])
        count = jnp.maximum(valid.sum(), 1)
        ratio = jnp.where(valid, inputs.losses / jnp.where(valid, first, 1.0), 0.0)
        rate = jnp.where(valid, ratio / jnp.maximum(ratio.sum() / count, 1e-12), 1.0)
        weighted_norms = jnp.where(valid, weights * norms, 0.0)
        target = weighted_norms.sum() / count * rate**self.alpha
        slope = jnp.where(valid, jnp.sign(weighted_norms - target) * norms, 0.0)
        change, adam_state = adam(self.learning_rate).update(slope, state["adam"])
        moved = jnp.maximum(weights + change, MIN_WEIGHT)
        # Objectives that are not valid keep their weights; the others' weights keep their sum.
        moved_sum = jnp.maximum(jnp.where(valid, moved, 0.0).sum(), 1e-12)
        scale = jnp.where(valid, weights, 0.0).sum() / moved_sum
        after = jnp.where(valid, moved * scale, weights)
        return weigh_losses(weights, {"weights": after, "first_losses": first, "adam": adam_state})
