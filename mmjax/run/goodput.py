"""Goodput: the fraction of a run's wall time that trained, over all its starts, and where the rest went.

Exactly one phase is active at any time, so the phases add up to the wall time of the run's processes:

    restart      from the start of the process to the first step, and rollbacks to a checkpoint
    compile      the first step of a process, and its first step with a conflict report
    step         the steps, and everything else that the loop does; only this counts as training
    input_wait   the loop waits for the next batch
    save_stall   the loop waits for a checkpoint
    evaluation   evaluations that are due
    lost         time in any of these phases whose steps a restart repeated
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

PHASES = ("restart", "compile", "step", "input_wait", "save_stall", "evaluation", "lost")
PREFIX = "seconds/"


class Goodput:
    """Seconds by phase. The first phase is `restart`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, age: float = 0.0) -> None:
        """Starts the clock.

        Args:
          clock: returns seconds.
          age: seconds for which the process has already been running.
        """
        self._clock = clock
        self._seconds = dict.fromkeys(PHASES, 0.0) | {"restart": age}
        self._phase, self._since = "restart", clock()

    def enter(self, phase: str) -> str:
        """Makes a phase the active one; returns the one before."""
        now, previous = self._clock(), self._phase
        self._seconds[previous] += now - self._since
        self._phase, self._since = phase, now
        return previous

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Within `with` the phase is active; after it, also on an exception, the one before."""
        previous = self.enter(phase)
        try:
            yield
        finally:
            self.enter(previous)

    def row(self) -> dict[str, float]:
        """{"seconds/<phase>": seconds, "goodput": fraction} so far, for a row of metrics.jsonl."""
        self.enter(self._phase)
        rounded = {PREFIX + phase: round(seconds, 3) for phase, seconds in self._seconds.items()}
        return rounded | {"goodput": round(self._seconds["step"] / max(sum(self._seconds.values()), 1e-9), 4)}

    def restore(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Adds the time of the run's earlier processes.

        Args:
          rows: the rows of metrics.jsonl.
          step: the step of the restored checkpoint; time that was logged after it is lost.
        """
        last = rows[-1] if rows else {}
        resumed = newest_row(rows, step)
        for phase in PHASES:
            self._seconds[phase] += _logged(resumed, phase)
            self._seconds["lost"] += _logged(last, phase) - _logged(resumed, phase)

    def roll_back(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Counts the time that this process trained after `step` as lost."""
        self.enter(self._phase)
        lost = max(0.0, self._seconds["step"] - _logged(newest_row(rows, step), "step"))
        self._seconds["step"] -= lost
        self._seconds["lost"] += lost

    def summary(self) -> str:
        """One line: the fraction of the wall time that trained, and where the rest went."""
        row = self.row()
        total = sum(row[PREFIX + phase] for phase in PHASES)
        rest = [
            f"{phase.replace('_', ' ')} {row[PREFIX + phase] / total:.1%}"
            for phase in PHASES
            if phase != "step" and row[PREFIX + phase] >= total / 2000  # at least 0.05 %, not shown as 0.0%
        ]
        return f"trained {row['goodput']:.1%} of {total:,.0f} s: {', '.join(rest)}"


def newest_row(rows: Sequence[Mapping[str, Any]], step: int) -> Mapping[str, Any]:
    """The last row of metrics.jsonl at or before `step`; empty if there is none."""
    return next((row for row in reversed(rows) if 0 < row["step"] <= step), {})


def _logged(row: Mapping[str, Any], phase: str) -> float:
    return float(row.get(PREFIX + phase) or 0.0)


def process_age() -> float:
    """Seconds since this process started, imports included; 0 on systems without /proc."""
    try:
        with open("/proc/self/stat", encoding="utf-8") as stream:
            # The program name, in parentheses, may itself contain spaces and parentheses.
            ticks = int(stream.read().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError):  # not Linux
        return 0.0
