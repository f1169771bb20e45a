"""Running means of device metrics, throughput, and the share of time spent waiting for input."""

import time

import jax
import numpy as np

from mmjax.train.flops import mfu
from mmjax.train.nonfinite import refuse_endless_skips, refuse_non_finite


class Meter:
    """Collects steps between two log lines.

    Metrics stay on the device until `read`, so that between two log lines nothing waits for the device. The
    first step of a process compiles; `start_clock` after it leaves it out of the times.
    """

    def __init__(self, batch_size: int, flops_per_step: float, num_skipped: int = 0):
        """num_skipped: steps of the run so far that updated nothing."""
        self.batch_size, self.flops_per_step = batch_size, flops_per_step
        self.num_skipped, self.skipped_in_a_row = num_skipped, 0
        self.compiled = False  # set once the first step of this process has been
        self.restart()

    def restart(self) -> None:
        """Forgets everything and starts the clock."""
        self.pending, self.wait_seconds, self.untimed, self.start = [], 0.0, 0, time.perf_counter()

    def start_clock(self) -> None:
        """Times only what comes after the steps added so far, once they are done."""
        jax.block_until_ready(self.pending)
        self.compiled = True
        self.wait_seconds, self.untimed, self.start = 0.0, len(self.pending), time.perf_counter()

    def add(self, metrics: dict, wait_seconds: float) -> None:
        """One step's device metrics, and how long the loop waited for its batch."""
        self.pending.append(metrics)
        self.wait_seconds += wait_seconds

    def read(self, first_step: int) -> dict[str, float]:
        """Means since the last read, throughput and shares; starts anew. Skipped steps are in no mean.

        first_step: the number of the first step added since then.

        Raises:
          NonFiniteError: a loss or norm is NaN or infinite at a step that was not skipped, or too many were
            skipped in a row; names the step and the objective.
        """
        steps = jax.device_get(self.pending)  # waits for the last step
        seconds = max(time.perf_counter() - self.start, 1e-9)
        taken = [step for offset, step in enumerate(steps) if self._taken(step, first_step + offset)]
        names = [name for name in steps[0] if name != "skipped"]
        result = {name: float(np.mean([step[name] for step in taken])) if taken else np.nan for name in names}
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

    def _taken(self, metrics: dict, step: int) -> bool:
        """Whether the step updated anything; counts those that did not."""
        if metrics.get("skipped"):
            self.num_skipped += 1
            self.skipped_in_a_row += 1
            refuse_endless_skips(self.skipped_in_a_row, step)
            return False
        self.skipped_in_a_row = 0
        refuse_non_finite(metrics, step)
        return True
