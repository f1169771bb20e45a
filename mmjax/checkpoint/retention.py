"""Which checkpoints stay when a new one is saved."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retention:
    """A step stays if any of the fields says so. What is not yet evaluated is no candidate for the best.

    >>> keep = Retention(last=1, every=100, scores=lambda: {20: 0.5, 40: 0.75, 60: 0.25})
    >>> sorted(keep([20, 40, 60, 100, 110, 120]))
    [40, 100, 120]
    """

    last: int = 2  # the newest so many
    every: int = 0  # multiples of so many steps; 0: none
    newest_multiple_of: int = 0  # the newest multiple of so many steps; 0: none
    scores: Callable[[], Mapping[int, float]] = dict  # {step: score}, asked anew at each save
    mode: Literal["max", "min"] = "max"  # the better score

    def __call__(self, steps: Iterable[int]) -> set[int]:
        """Those of ``steps`` that stay."""
        steps = sorted(steps)
        kept = set(steps[-self.last :])
        if self.every:
            kept |= {step for step in steps if step % self.every == 0}
        if self.newest_multiple_of:
            kept |= set([step for step in steps if step % self.newest_multiple_of == 0][-1:])
        here = set(steps)
        # A score that is not a number compares as worse than any.
        scored = {step: score for step, score in self.scores().items() if step in here and score == score}
        if scored:
            sign = 1 if self.mode == "max" else -1
            kept.add(max(scored, key=lambda step: (sign * scored[step], step)))  # of equals, the newest
        return kept
