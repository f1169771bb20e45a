"""Where a run's wall time went, over all its starts: what trained, and what did not.

At any moment exactly one phase is going on, so the phases add up to the wall time of the run's processes:

    restart      from the start of the process to the first step, and going back to a checkpoint
    compile      the first step of a process
    step         the steps, and whatever else the loop does; only this trained
    input_wait   the loop stood still for the next batch
    save_stall   the loop stood still for a checkpoint
    evaluation   evaluations that fall due
    lost         any of these, spent on what a restart then had to do again
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

PHASES = ("restart", "compile", "step", "input_wait", "save_stall", "evaluation", "lost")
PREFIX = "seconds/"


class Goodput:
    """Seconds by phase; starts in ``restart``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, age: float = 0.0) -> None:
        """``age``: seconds for which the process had been running already."""
        self._clock = clock
        self._seconds = dict.fromkeys(PHASES, 0.0) | {"restart": age}
        self._phase, self._since = "restart", clock()

    def enter(self, phase: str) -> str:
        """From now on this phase is going on; returns the one before."""
        now, before = self._clock(), self._phase
        self._seconds[before] += now - self._since
        self._phase, self._since = phase, now
        return before

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Within it this phase is going on, whatever happens; then again the one before."""
        before = self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def row(self) -> dict[str, float]:
        """``{"seconds/<phase>": ..., "goodput": share}`` so far, for a line of metrics.jsonl."""
        self.enter(self._phase)
        rounded = {PREFIX + phase: round(seconds, 3) for phase, seconds in self._seconds.items()}
        return rounded | {"goodput": round(self._seconds["step"] / max(sum(self._seconds.values()), 1e-9), 4)}

    def carry_on(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Takes over what the run's earlier processes logged in ``rows``; all after ``step`` is lost."""
        last = rows[-1] if rows else {}
        kept = newest(rows, step)
        for phase in PHASES:
            self._seconds[phase] += _logged(kept, phase)
            self._seconds["lost"] += _logged(last, phase) - _logged(kept, phase)

    def roll_back(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """What this process trained after ``step`` is lost."""
        self.enter(self._phase)
        lost = max(0.0, self._seconds["step"] - _logged(newest(rows, step), "step"))
        self._seconds["step"] -= lost
        self._seconds["lost"] += lost

    def summary(self) -> str:
        """One line: the share of wall time that trained, and where the rest went."""
        row = self.row()
        total = sum(row[PREFIX + phase] for phase in PHASES)
        rest = [
            f"{phase.replace('_', ' ')} {row[PREFIX + phase] / total:.1%}"
            for phase in PHASES
            if phase != "step" and row[PREFIX + phase] >= total / 2000  # what would not read 0.0%
        ]
        return f"trained {row['goodput']:.1%} of {total:,.0f} s: {', '.join(rest)}"


def newest(rows: Sequence[Mapping[str, Any]], step: int) -> Mapping[str, Any]:
    """The last row of metrics.jsonl at or before ``step``; empty if there is none."""
    return next((row for row in reversed(rows) if 0 < row["step"] <= step), {})


def _logged(row: Mapping[str, Any], phase: str) -> float:
    return float(row.get(PREFIX + phase) or 0.0)


def process_age() -> float:
    """Seconds since this process was started, imports included; 0 where the system does not say."""
    try:
        with open("/proc/self/stat", encoding="utf-8") as stream:
            # The name of the program, in parentheses, may itself hold spaces and parentheses.
            ticks = int(stream.read().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError):  # no Linux
        return 0.0
