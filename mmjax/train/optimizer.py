"""Optimizers and schedules as small values that make optax transformations."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up to the peak, then one of three ways down.

    "cosine" to `final_share` of the peak at the last update; "wsd" (warm-up, stable, decay: Hu et al. 2024)
    stays at the peak and falls linearly over the last `decay_share` of the updates; "rsqrt" falls with the
    root of the update (Zhai et al. 2022, Scaling ViT) and linearly over the last `decay_share`, so a run can
    be prolonged.
    """

    kind: Literal["cosine", "wsd", "rsqrt", "constant"] = "cosine"
    warmup_steps: int = 0
    final_share: float = 0.0
    decay_share: float = 0.2

    def make(self, peak: float, num_updates: int) -> optax.Schedule:
        """update -> learning rate, in `num_updates`. Raises InputError if the warm-up does not fit."""
        if not 0 <= self.warmup_steps < max(num_updates, 1):
            raise InputError(
                f"warmup_steps={self.warmup_steps} does not fit a run of {num_updates} updates; lower it"
            )
        warmup = optax.linear_schedule(0.0, peak, self.warmup_steps) if self.warmup_steps else None
        rest = num_updates - self.warmup_steps
        decay = max(1, round(self.decay_share * num_updates))
        if self.kind == "cosine":
            after = optax.cosine_decay_schedule(peak, rest, alpha=self.final_share)
        elif self.kind == "constant":
            after = optax.constant_schedule(peak)
        elif self.kind == "wsd":
            fall = optax.linear_schedule(peak, peak * self.final_share, decay)
            after = optax.join_schedules([optax.constant_schedule(peak), fall], [max(0, rest - decay)])
        elif self.kind == "rsqrt":
            shift = max(self.warmup_steps, 1)

            def after(update):
                update = jnp.maximum(update, 0)  # asked during the warm-up too, though not heeded
                value = peak * (shift / (shift + update)) ** 0.5
                left = (rest - update) / decay
                return value * (self.final_share + (1 - self.final_share) * jnp.clip(left, 0, 1))
        else:
            raise InputError(f"unknown schedule {self.kind!r}; known: 'cosine', 'wsd', 'rsqrt', 'constant'")
        return after if warmup is None else optax.join_schedules([warmup, after], [self.warmup_steps])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What AdamW and Lion share: schedule, clipping, a mask on weight decay, accumulation.

    Weight decay reaches kernels, tables and learned tokens, never biases, norms or scalars (arrays of fewer
    than two dimensions, not counting that of scanned layers). `accumulate` averages the gradients of that
    many steps into one update; for losses that are means over rows this equals one batch that many times as
    large, but a contrastive loss still sees only the rows of one step.
    """

    peak_learning_rate: float
    schedule: Schedule = Schedule()
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    accumulate: int = 1

    def scale(self) -> optax.GradientTransformation:
        """The direction of the update, before decay and learning rate."""
        raise TypeError(f"{type(self).__name__} is abstract; use AdamW or Lion")

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `num_steps` train steps."""
        learning_rate = self.schedule.make(self.peak_learning_rate, max(1, num_steps // self.accumulate))
        chain = [
            optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity(),
            self.scale(),
            optax.add_decayed_weights(self.weight_decay, mask=decay_mask),
            optax.scale_by_learning_rate(learning_rate),
        ]
        transformation = optax.chain(*chain)
        if self.accumulate > 1:
            return optax.MultiSteps(
                transformation, every_k_schedule=self.accumulate
            ).gradient_transformation()
        return transformation

    def learning_rate(self, num_steps: int, step: int) -> float:
        """The learning rate of train step `step`."""
        schedule = self.schedule.make(self.peak_learning_rate, max(1, num_steps // self.accumulate))
        return float(schedule(step // self.accumulate))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Loshchilov & Hutter 2019."""

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def scale(self):
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.epsilon)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """Chen et al. 2023. A third to a tenth of AdamW's learning rate, and as much more weight decay."""

    b1: float = 0.9
    b2: float = 0.99

    def scale(self):
        return optax.scale_by_lion(b1=self.b1, b2=self.b2)


def decay_mask(params):
    """True at kernels and tables, by name: a scanned bias has two dimensions too."""

    def decays(path, leaf) -> bool:
        return leaf.ndim >= 2 and path_name(path).rsplit("/", 1)[-1] not in ("bias", "scale")

    return jax.tree.map_with_path(decays, params)


def path_name(path) -> str:
    """``encoders/image/...``: a parameter's path as one readable name, without flax's boxes."""
    keys = [
        entry for entry in path if not (isinstance(entry, jax.tree_util.GetAttrKey) and entry.name == "value")
    ]
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")
