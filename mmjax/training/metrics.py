"""Means of the steps' metrics, throughput, and the fraction of time spent waiting for input."""

import logging
import time

import jax
import numpy as np

from mmjax.objectives import mean_over_batches, without_weights
from mmjax.training.flops import mfu
from mmjax.training.nonfinite import check_consecutive_skips, check_finite

_LOG = logging.getLogger(__name__)


class Meter:
    """Averages the metrics of the steps between two log lines, and measures their speed.

    Metrics stay on the device until `read`, so that steps between two log lines do not wait for the device.
    The first step of a process compiles, and so does its first step with a conflict report: calling
    `restart_clock` after a step leaves it, and those before it, out of the speeds.
    """

    def __init__(
        self,
        batch_size: int,
        flops_per_step: float,
        num_skipped: int = 0,
        devices: list | None = None,
    ):
        """Starts the clock.

        Args:
          num_skipped: skipped steps of the run before this process.
          devices: that the run uses; None: all.
        """
        self.batch_size, self.flops_per_step = batch_size, flops_per_step
        self.devices = jax.devices() if devices is None else devices
        self.num_skipped, self.num_consecutive_skips = num_skipped, 0
        self.compiled = False  # whether this process has compiled, that is, run its first step
        self._idle: set[str] = set()  # losses without a row, of which the log tells
        self.reset()

    def reset(self) -> None:
        """Discards all metrics and restarts the clock."""
        self.metrics, self.wait_seconds, self.num_untimed, self.start = [], 0.0, 0, time.perf_counter()

    def restart_clock(self) -> None:
        """Waits for the steps so far and leaves them out of the speeds."""
        jax.block_until_ready(self.metrics)
        self.compiled = True
        self.wait_seconds, self.num_untimed, self.start = 0.0, len(self.metrics), time.perf_counter()

    def add(self, metrics: dict, wait_seconds: float) -> None:
        """Adds one step's device metrics, and the time for which the loop waited for its batch."""
        self.metrics.append(metrics)
        self.wait_seconds += wait_seconds

    def read(self, last_step: int) -> dict[str, float]:
        """Means of the steps since the last read, without skipped ones, and speeds; then resets.

        An objective's means are weighted by its rows in each step, and left out if it had none in any step.

        Args:
          last_step: the number of the step that was added last.

        Raises:
          NonFiniteError: a loss or norm is not finite at a step that was not skipped, or too many consecutive
            steps were skipped. The message names the step and the objective.
        """
        steps = jax.device_get(self.metrics)  # waits for the last step
        seconds = max(time.perf_counter() - self.start, 1e-9)
        first_step = last_step - len(steps) + 1
        updates = [step for number, step in enumerate(steps, first_step) if self._is_update(step, number)]
        row = mean_over_batches(updates) if updates else dict.fromkeys(without_weights(steps[0]), np.nan)
        row.pop("skipped", None)
        self._warn_of_idle_objectives(set(without_weights(steps[0])) - row.keys(), first_step, last_step)
        num_timed = len(steps) - self.num_untimed
        if num_timed:
            flops_per_second = self.flops_per_step * num_timed / seconds
            row["examples_per_second"] = num_timed * self.batch_size / seconds
            row["steps_per_second"] = num_timed / seconds
            row["input_wait_share"] = min(1.0, self.wait_seconds / seconds)
            row["flops_per_second"] = flops_per_second
            utilization = mfu(flops_per_second, self.devices)
            row |= {} if utilization is None else {"mfu": utilization}
        self.reset()
        return row

    def _warn_of_idle_objectives(self, names: set[str], first_step: int, last_step: int) -> None:
        """Tells once of each objective that had no row in any step, given the metrics without a mean."""
        for name in sorted(name for name in names - self._idle if name.startswith("loss/")):
            self._idle.add(name)
            _LOG.warning(
                "objective %r learned nothing in steps %d to %d: no example has all that it reads",
                name.removeprefix("loss/"), first_step, last_step,
            )  # fmt: skip

    def _is_update(self, metrics: dict, step: int) -> bool:
        """Whether the step updated the parameters. Counts skipped steps; raises as `read` does."""
        if metrics.get("skipped"):
            self.num_skipped += 1
            self.num_consecutive_skips += 1
            check_consecutive_skips(self.num_consecutive_skips, step)
            return False
        self.num_consecutive_skips = 0
        check_finite(metrics, step)
        return True
