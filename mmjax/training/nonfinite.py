"""Detection of steps whose loss or gradient is not finite, on the device and on the host.

`Experiment.on_nonfinite` decides what follows. "stop" ends the run. "skip" keeps parameters and optimizer
unchanged, inside the compiled step. "rollback" restores a checkpoint and continues after the bad step
(`mmjax.run.rollback`). The two limits below end runs that never recover.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.errors import NonFiniteError

MAX_CONSECUTIVE_SKIPS = 50  # after so many, the parameters are at fault and not the batches
MAX_CONSECUTIVE_ROLLBACKS = 3  # without a finite log line between them

ADVICE = (
    "Look at that step's data, and resume with on_nonfinite=skip or on_nonfinite=rollback; or train in "
    "another folder (--run-dir) with a lower learning rate, a longer warm-up or a smaller clip_norm"
)

FIRST_STEP_ADVICE = (
    "No update came before it, so that the learning rate is not the cause: look at the data and targets of "
    "that objective (infinite values, labels out of range)"
)
MAX_NAMED = 10  # objectives in one message


def must_be_finite(name: str) -> bool:
    """Whether a metric of this name must be finite: losses and norms."""
    return name.startswith("loss") or name.endswith("_norm")


def all_finite(metrics: Mapping[str, jax.Array]) -> jax.Array:
    """Whether all losses and norms are finite: a bool scalar on the device."""
    return jnp.stack([jnp.isfinite(x) for name, x in metrics.items() if must_be_finite(name)]).all()


def check_finite(metrics: Mapping[str, Any], step: int) -> None:
    """Raises NonFiniteError for the first objective's loss, or else norm, that is not finite."""
    names = sorted(metrics, key=lambda name: (not name.startswith("loss/"), name))
    bad = [name for name in names if must_be_finite(name) and not math.isfinite(metrics[name])]
    if bad:
        subject = f"objective {bad[0].removeprefix('loss/')!r}" if bad[0].startswith("loss/") else bad[0]
        others = [
            name.removeprefix("loss/") for name in names if name.startswith("loss/") and name not in bad
        ]
        known = f" (finite: {', '.join(others[:MAX_NAMED])})" if others else ""
        # The losses of step 1 are of the initial parameters, which no learning rate has changed.
        advice = FIRST_STEP_ADVICE if step == 1 and bad[0].startswith("loss/") else ADVICE
        raise NonFiniteError(
            f"step {step}: {subject} is {float(metrics[bad[0]])}{known}; the last checkpoint is kept. "
            f"{advice}",
            step,
        )


def check_consecutive_skips(num_skips: int, step: int) -> None:
    """Raises NonFiniteError after MAX_CONSECUTIVE_SKIPS skipped steps."""
    if num_skips >= MAX_CONSECUTIVE_SKIPS:
        raise NonFiniteError(
            f"step {step}: the last {num_skips} steps were all skipped, because none was finite; the last "
            f"checkpoint is kept. {ADVICE}"
        )
