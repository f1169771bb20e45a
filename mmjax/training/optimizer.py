"""Optimizers and learning rate schedules, as values from which optax transformations are made."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning rate schedule: linear warm-up to the peak, then a decay.

    kind: "constant" has no decay. "cosine" decays until the last update. "wsd" (warm-up, stable, decay: Hu et
      al. 2024) stays at the peak, then decays linearly. "rsqrt" (Zhai et al. 2022, Scaling ViT) decays with
      the inverse square root of the update, then linearly.
    warmup_steps: the number of updates of the warm-up.
    final_fraction: the last learning rate, as a fraction of the peak (of the inverse root, in "rsqrt").
    decay_fraction: the last fraction of the updates, in which "wsd" and "rsqrt" decay linearly.
    """

    kind: Literal["cosine", "wsd", "rsqrt", "constant"] = "cosine"
    warmup_steps: int = 0
    final_fraction: float = 0.0
    decay_fraction: float = 0.2

    def make(self, peak: float, num_updates: int) -> optax.Schedule:
        """update -> learning rate, scalars. Raises InputError if the warm-up is longer than the run."""
        if not 0 <= self.warmup_steps < max(num_updates, 1):
            raise InputError(
                f"warmup_steps={self.warmup_steps} does not fit a run of {num_updates} updates; lower it"
            )
        warmup = optax.linear_schedule(0.0, peak, self.warmup_steps) if self.warmup_steps else None
        rest = num_updates - self.warmup_steps
        decay = max(1, round(self.decay_fraction * num_updates))
        if self.kind == "cosine":
            after = optax.cosine_decay_schedule(peak, rest, alpha=self.final_fraction)
        elif self.kind == "constant":
            after = optax.constant_schedule(peak)
        elif self.kind == "wsd":
            linear = optax.linear_schedule(peak, peak * self.final_fraction, decay)
            after = optax.join_schedules([optax.constant_schedule(peak), linear], [max(0, rest - decay)])
        elif self.kind == "rsqrt":
            shift = max(self.warmup_steps, 1)

            def after(update):
                update = jnp.maximum(update, 0)  # join_schedules also evaluates it during the warm-up
                value = peak * (shift / (shift + update)) ** 0.5
                remaining = jnp.clip((rest - update) / decay, 0, 1)
                return value * (self.final_fraction + (1 - self.final_fraction) * remaining)
        else:
            raise InputError(f"unknown schedule {self.kind!r}; known: 'cosine', 'wsd', 'rsqrt', 'constant'")
        return after if warmup is None else optax.join_schedules([warmup, after], [self.warmup_steps])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The base class of optimizers.

    weight_decay: applies to kernels, tables and learned tokens, not to biases, norms and scalars.
    clip_norm: the largest global norm of the gradients; None: no clipping.
    accumulation_steps: the number of steps whose gradients are averaged into one update. This equals a larger
      batch for losses that are means over rows; contrastive losses still compare only the rows of one step.
    """

    peak_learning_rate: float
    schedule: Schedule = Schedule()
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    accumulation_steps: int = 1

    def update_rule(self) -> optax.GradientTransformation:
        """From clipped gradients to updates, before weight decay and learning rate."""
        raise TypeError(f"{type(self).__name__} is abstract; use AdamW or Lion")

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `num_steps` train steps."""
        transformation = optax.chain(
            optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity(),
            self.update_rule(),
            optax.add_decayed_weights(self.weight_decay, mask=decay_mask),
            optax.scale_by_learning_rate(self._schedule(num_steps)),
        )
        if self.accumulation_steps > 1:
            return optax.MultiSteps(transformation, self.accumulation_steps).gradient_transformation()
        return transformation

    def learning_rate(self, num_steps: int, step: int) -> float:
        """The learning rate of train step `step`."""
        return float(self._schedule(num_steps)(step // self.accumulation_steps))

    def _schedule(self, num_steps: int) -> optax.Schedule:
        return self.schedule.make(self.peak_learning_rate, max(1, num_steps // self.accumulation_steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def update_rule(self):
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.epsilon)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """Chen et al. 2023. Against AdamW, use a learning rate 3-10 times lower and 3-10 times more decay."""

    b1: float = 0.9
    b2: float = 0.99

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
