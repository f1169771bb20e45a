"""Running means of device metrics, throughput, and the share of time spent waiting for input."""

import math
import time

import jax
import numpy as np

from mmjax.errors import NonFiniteError
from mmjax.train.flops import mfu


class Meter:
    """Collects steps between two log lines.

    Metrics stay on the device until `read`, so that between two log lines nothing waits for the device. The
    first step of a process compiles; `start_clock` after it leaves it out of the times.
    """

    def __init__(self, batch_size: int, flops_per_step: float):
        self.batch_size, self.flops_per_step = batch_size, flops_per_step
        self.restart()

    def restart(self) -> None:
        """Forgets everything and starts the clock."""
        self.pending, self.wait_seconds, self.untimed, self.start = [], 0.0, 0, time.perf_counter()

    def start_clock(self) -> None:
        """Times only what comes after the steps added so far, once they are done."""
        jax.block_until_ready(self.pending)
        self.wait_seconds, self.untimed, self.start = 0.0, len(self.pending), time.perf_counter()

    def add(self, metrics: dict, wait_seconds: float) -> None:
        """One step's device metrics, and how long the loop waited for its batch."""
        self.pending.append(metrics)
        self.wait_seconds += wait_seconds

    def read(self, first_step: int) -> dict[str, float]:
        """Means since the last read, throughput and shares; starts anew.

        first_step: the number of the first step added since then.

        Raises:
          NonFiniteError: a loss or norm is NaN or infinite; names the step and the objective.
        """
        steps = jax.device_get(self.pending)  # waits for the last step
        seconds = max(time.perf_counter() - self.start, 1e-9)
        for offset, step in enumerate(steps):
            refuse_non_finite(step, first_step + offset)
        result = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
        timed = len(steps) - self.untimed
        if not timed:  # only the step that compiled: there is no speed to tell
            self.restart()
            return result
        result["examples_per_second"] = timed * self.batch_size / seconds
        result["steps_per_second"] = timed / seconds
        result["input_wait_share"] = min(1.0, self.wait_seconds / seconds)
        flops_per_second = self.flops_per_step * timed / seconds
        result["flops_per_second"] = flops_per_second
        share = mfu(flops_per_second, jax.devices())
        if share is not None:
            result["mfu"] = share
        self.restart()
        return result


def refuse_non_finite(metrics: dict, step: int) -> None:
    """Raises NonFiniteError for the first objective whose loss, else the first norm, that is not finite."""
    names = sorted(metrics, key=lambda name: (not name.startswith("loss/"), name))
    bad = [
        name
        for name in names
        if (name.startswith("loss") or name.endswith("_norm")) and not math.isfinite(metrics[name])
    ]
    if bad:
        what = f"objective {bad[0].removeprefix('loss/')!r}" if bad[0].startswith("loss/") else bad[0]
        raise NonFiniteError(
            f"step {step}: {what} is {float(metrics[bad[0]])}; the last checkpoint is kept. "
            "Try a lower learning rate, a longer warm-up or a smaller clip_norm, and look at that step's data"
        )
