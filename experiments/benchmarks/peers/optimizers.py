"""Optimizers and schedules, beside PyTorch, timm and transformers."""

import jax.numpy as jnp
import numpy as np
import optax
import torch

from mmjax.training.optimizer import AdamW, Lion, Optimizer, Schedule
from peers.comparison import Comparison

STEPS = 30


def gradients() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "bias": (3,)}
    return [{k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()} for _ in range(STEPS)]


def start() -> dict[str, np.ndarray]:
    return {"kernel": np.full((4, 3), 0.5, np.float32), "bias": np.full(3, -0.5, np.float32)}


def ours(optimizer: Optimizer, num_steps: int = STEPS) -> dict[str, np.ndarray]:
    transformation, params = optimizer.make(num_steps), start()
    state = transformation.init(params)
    for grads in gradients()[:num_steps]:
        updates, state = transformation.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return {name: np.asarray(value) for name, value in params.items()}


def theirs(make, clip: float | None = None, every: int = 1) -> dict[str, np.ndarray]:
    params = {name: torch.from_numpy(value).requires_grad_() for name, value in start().items()}
    optimizer = make([
        {"params": [params["kernel"]], "weight_decay": 0.1}, {"params": [params["bias"]], "weight_decay": 0.0}
    ])  # fmt: skip
    for step, grads in enumerate(gradients(), start=1):
        for name, value in params.items():
            part = torch.from_numpy(grads[name]) / every
            value.grad = part if value.grad is None else value.grad + part
        if step % every:
            continue
        if clip:
            torch.nn.utils.clip_grad_norm_(list(params.values()), clip)
        optimizer.step()
        for value in params.values():
            value.grad = None
    return {name: value.detach().numpy() for name, value in params.items()}


CONSTANT = dict(schedule=Schedule(kind="constant"), weight_decay=0.1)


def adamw(clip: float | None = None, every: int = 1):
    optimizer = AdamW(peak_learning_rate=0.01, clip_norm=clip, accumulation_steps=every, **CONSTANT)
    return ours(optimizer), theirs(lambda groups: torch.optim.AdamW(groups, lr=0.01), clip, every)


def lion():
    from timm.optim import Lion as TimmLion

    optimizer = Lion(peak_learning_rate=0.01, clip_norm=None, **CONSTANT)
    return ours(optimizer), theirs(lambda groups: TimmLion(groups, lr=0.01))


def rates(schedule: Schedule, make):
    """The rates of 50 updates. The last update of transformers' is the one after the last."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = make(optimizer)
    expected = []
    for _ in range(50):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    function = schedule.make(1.0, 50)
    return [float(function(jnp.asarray(n))) for n in range(50)], expected


def cosine():
    from transformers import get_cosine_schedule_with_warmup

    return rates(Schedule(warmup_steps=5), lambda x: get_cosine_schedule_with_warmup(x, 5, 49))


def constant():
    from transformers import get_constant_schedule_with_warmup

    return rates(Schedule(kind="constant", warmup_steps=5), lambda x: get_constant_schedule_with_warmup(x, 5))


def wsd():
    from transformers import get_wsd_schedule

    return rates(
        Schedule(kind="wsd", warmup_steps=5, decay_fraction=0.2),
        lambda x: get_wsd_schedule(
            x, num_warmup_steps=5, num_stable_steps=34, num_decay_steps=10, decay_type="linear",
        ),
    )  # fmt: skip


LAST = "given num_training_steps - 1: mmjax's last update has the last rate, theirs the one before it"
ROWS = (
    Comparison("AdamW, 30 updates, decay of kernels only", "torch", "optim.AdamW", adamw),
    Comparison("AdamW, clipped", "torch", "nn.utils.clip_grad_norm_", lambda: adamw(clip=0.5)),
    Comparison("AdamW, 3 steps an update", "torch", "optim.AdamW", lambda: adamw(every=3)),
    Comparison("Lion, 30 updates", "timm", "optim.Lion", lion),
    Comparison("cosine schedule", "transformers", "get_cosine_schedule_with_warmup", cosine, reason=LAST),
    Comparison("constant schedule", "transformers", "get_constant_schedule_with_warmup", constant),
    Comparison("warm-up, stable, decay", "transformers", "get_wsd_schedule", wsd, reason=LAST),
)
