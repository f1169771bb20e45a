"""A step whose loss or gradient is not finite: how it is known, on the device and on the host.

What is done about it is the experiment's ``on_nonfinite``. "stop" ends the run. "skip" keeps parameters and
optimizer as they were, decided within the compiled step, and goes on. "rollback" returns to a checkpoint and
goes on behind the bad step (``mmjax.run.rollback``). Neither goes on for ever: the two bounds below.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.errors import NonFiniteError

# So many steps one after the other are no longer bad batches, but a model that is beyond repair.
MAX_SKIPS_IN_A_ROW = 50
# So many returns with not one finite log line between them.
MAX_ROLLBACKS_IN_A_ROW = 3

ADVICE = "Try a lower learning rate, a longer warm-up or a smaller clip_norm, and look at that step's data"


def watched(name: str) -> bool:
    """Whether a metric of this name must be finite."""
    return name.startswith("loss") or name.endswith("_norm")


def all_finite(metrics: Mapping[str, jax.Array]) -> jax.Array:
    """bool scalar, on the device: is every watched metric finite?"""
    return jnp.stack([jnp.isfinite(value) for name, value in metrics.items() if watched(name)]).all()


def refuse_non_finite(metrics: Mapping[str, Any], step: int) -> None:
    """Raises NonFiniteError for the first objective whose loss, else the first norm, that is not finite."""
    names = sorted(metrics, key=lambda name: (not name.startswith("loss/"), name))
    bad = [name for name in names if watched(name) and not math.isfinite(metrics[name])]
    if bad:
        what = f"objective {bad[0].removeprefix('loss/')!r}" if bad[0].startswith("loss/") else bad[0]
        raise NonFiniteError(
            f"step {step}: {what} is {float(metrics[bad[0]])}; the last checkpoint is kept. {ADVICE}", step
        )


def refuse_endless_skips(in_a_row: int, step: int) -> None:
    """Raises NonFiniteError when no batch gives a finite step any more."""
    if in_a_row >= MAX_SKIPS_IN_A_ROW:
        raise NonFiniteError(
            f"step {step}: the last {in_a_row} steps were all skipped, since none was finite; the last "
            f"checkpoint is kept. {ADVICE}"
        )
