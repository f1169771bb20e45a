"""Optimizers and learning rate schedules, as values from which optax transformations are made."""

import abc
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmjax.errors import InputError
from mmjax.ranges import Decay, Fraction, NonNegative, Positive, Rate, Size, Whole
from mmjax.spec import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(Spec):
    """A learning rate schedule: linear warm-up to the peak, then a decay that ends with the last update.

    kind: "constant" has no decay. "cosine" decays from the end of the warm-up. "wsd" (warm-up, stable, decay:
      Hu et al. 2024) stays at the peak, then decays linearly. "rsqrt" (Zhai et al. 2022, Scaling ViT) decays
      with the inverse square root of the update, then linearly.
    warmup_steps: the number of updates of the warm-up.
    final_fraction: the learning rate of the last update, as a fraction of the peak (of the inverse root, in
      "rsqrt").
    decay_fraction: the last fraction of the updates, in which "wsd" and "rsqrt" decay linearly.
    """

    kind: Literal["cosine", "wsd", "rsqrt", "constant"] = "cosine"
    warmup_steps: Whole = 0
    final_fraction: Fraction = 0.0
    decay_fraction: Fraction = 0.2

    def make(self, peak: float, num_updates: int) -> optax.Schedule:
        """update -> learning rate, scalars. Raises InputError if warm-up and decay exceed the run."""
        if self.warmup_steps > self.max_warmup(num_updates):
            raise InputError(
                f"warmup_steps={self.warmup_steps} does not fit a run of {num_updates} updates: expected at "
                f"most {self.max_warmup(num_updates)}"
            )
        warmup = optax.linear_schedule(0.0, peak, self.warmup_steps) if self.warmup_steps else None
        last = max(1, num_updates - 1 - self.warmup_steps)  # the last update, counted from the warm-up's end
        decay = max(1, min(self._num_decay_updates(num_updates), last))
        if self.kind == "cosine":
            after = optax.cosine_decay_schedule(peak, last, alpha=self.final_fraction)
        elif self.kind == "constant":
            after = optax.constant_schedule(peak)
        elif self.kind == "wsd":
            linear = optax.linear_schedule(peak, peak * self.final_fraction, decay)
            after = optax.join_schedules([optax.constant_schedule(peak), linear], [last - decay])
        else:
            shift = max(self.warmup_steps, 1)

            def after(update):
                update = jnp.maximum(update, 0)  # join_schedules also evaluates it during the warm-up
                value = peak * (shift / (shift + update)) ** 0.5
                remaining = jnp.clip((last - update) / decay, 0, 1)
                return value * (self.final_fraction + (1 - self.final_fraction) * remaining)

        return after if warmup is None else optax.join_schedules([warmup, after], [self.warmup_steps])

    def max_warmup(self, num_updates: int) -> int:
        """The longest warm-up that leaves an update at the peak, and the whole linear decay."""
        return max(0, num_updates - max(1, self._num_decay_updates(num_updates)))

    def _num_decay_updates(self, num_updates: int) -> int:
        """The length of the linear decay."""
        return round(self.decay_fraction * num_updates) if self.kind in ("wsd", "rsqrt") else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(Spec, abc.ABC):
    """The base class of optimizers.

    weight_decay: applies to kernels, tables and learned tokens, not to biases, norms and scalars.
    clip_norm: the largest global norm of the gradients; None: no clipping.
    accumulation_steps: the number of steps whose gradients are averaged into one update. This equals a larger
      batch for losses that are means over equally many rows in each step; contrastive losses still compare
      only the rows of one step.
    """

    peak_learning_rate: Rate
    schedule: Schedule = Schedule()
    weight_decay: NonNegative = 0.0
    clip_norm: Positive | None = 1.0
    accumulation_steps: Size = 1

    @abc.abstractmethod
    def update_rule(self) -> optax.GradientTransformation:
        """From clipped gradients to updates, before weight decay and learning rate."""

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `num_steps` train steps. Raises InputError, as `check_steps`."""
        self.check_steps(num_steps)
        transformation = optax.chain(
            optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity(),
            self.update_rule(),
            optax.add_decayed_weights(self.weight_decay, mask=decay_mask),
            optax.scale_by_learning_rate(self._schedule(num_steps)),
        )
        if self.accumulation_steps > 1:
            return optax.MultiSteps(transformation, self.accumulation_steps).gradient_transformation()
        return transformation

    def check_steps(self, num_steps: int) -> None:
        """Raises InputError if steps would change nothing, or if the schedule would not come to its end."""
        every = self.accumulation_steps
        if every > num_steps:
            raise InputError(
                f"optimizer.accumulation_steps expects at most num_steps={num_steps}, found {every}: the run "
                f"would end before its first update; set optimizer.accumulation_steps=1 or num_steps={every}"
            )
        if num_steps % every:
            whole = num_steps - num_steps % every
            raise InputError(
                f"num_steps expects a multiple of optimizer.accumulation_steps={every}, found {num_steps}: "
                f"the last {num_steps - whole} steps would change nothing; use num_steps={whole + every} or "
                f"{whole}"
            )
        num_updates = num_steps // every
        warmup, longest = self.schedule.warmup_steps, self.schedule.max_warmup(num_updates)
        if warmup > longest:
            steps = f"num_steps={num_steps}" + (f" / accumulation_steps={every}" if every > 1 else "")
            raise InputError(
                f"optimizer.schedule.warmup_steps={warmup} does not fit a run of {num_updates} updates "
                f"({steps}): expected at most {longest}, which leaves the decay of schedule "
                f"{self.schedule.kind!r} its time; add optimizer.schedule.warmup_steps="
                f"{min(longest, num_updates // 10)}, or increase num_steps"
            )

    def learning_rate(self, num_steps: int, step: int) -> float:
        """The learning rate of train step `step`."""
        return float(self._schedule(num_steps)(step // self.accumulation_steps))

    def learning_rates(self, num_steps: int, num_taken: int) -> np.ndarray:
        """The learning rates of the first `num_taken` steps of a run of `num_steps`: float32 "steps"."""
        rates = self._schedule(num_steps)(np.arange(num_taken) // self.accumulation_steps)
        return np.broadcast_to(np.asarray(rates, np.float32), num_taken)

    def _schedule(self, num_steps: int) -> optax.Schedule:
        return self.schedule.make(self.peak_learning_rate, max(1, num_steps // self.accumulation_steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    b1: Decay = 0.9
    b2: Decay = 0.999
    epsilon: Positive = 1e-8

    def update_rule(self):
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.epsilon)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """Chen et al. 2023. Against AdamW, use a learning rate 3-10 times lower and 3-10 times more decay."""

    b1: Decay = 0.9
    b2: Decay = 0.99

    def update_rule(self):
        return optax.scale_by_lion(b1=self.b1, b2=self.b2)


def decay_mask(params):
    """True for kernels and tables. By name too, because a bias of scanned layers has two dimensions."""

    def decays(path, leaf) -> bool:
        return leaf.ndim >= 2 and path_name(path).rsplit("/", 1)[-1] not in ("bias", "scale")

    return jax.tree.map_with_path(decays, params)


def path_name(path) -> str:
    """A parameter's path as one name such as "encoders/image/...", without the keys of flax's boxes."""
    keys = [
        entry for entry in path if not (isinstance(entry, jax.tree_util.GetAttrKey) and entry.name == "value")
    ]
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")
