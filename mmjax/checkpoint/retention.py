"""Decides which checkpoints to keep when a new one is saved."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetentionPolicy:
    """Keeps the union of the newest checkpoints, those at multiples of some steps, and the best one.

    >>> policy = RetentionPolicy(max_to_keep=1, keep_every=100, scores=lambda: {20: 0.5, 40: 0.75, 60: 0.25})
    >>> sorted(policy([20, 40, 60, 100, 110, 120]))
    [40, 100, 120]
    """

    max_to_keep: int = 2  # the number of newest checkpoints to keep
    keep_every: int = 0  # keeps every multiple of this number of steps; 0: none
    newest_multiple_of: int = 0  # keeps the newest multiple of this number of steps; 0: none
    # {step: score}, read at each save
    scores: Callable[[], Mapping[int, float]] = dataclasses.field(default_factory=lambda: dict)
    best_mode: Literal["max", "min"] = "max"  # whether the best score is the largest or the smallest

    def __call__(self, steps: Iterable[int]) -> set[int]:
        """The steps to keep among `steps`."""
        steps = sorted(steps)
        kept = set(steps[-self.max_to_keep :])
        if self.keep_every:
            kept |= {step for step in steps if step % self.keep_every == 0}
        if self.newest_multiple_of:
            kept |= set([step for step in steps if step % self.newest_multiple_of == 0][-1:])
        existing = set(steps)
        # `score == score` leaves out NaN, which is worse than any number.
        scored = {s: score for s, score in self.scores().items() if s in existing and score == score}
        if scored:
            sign = 1 if self.best_mode == "max" else -1
            kept.add(max(scored, key=lambda step: (sign * scored[step], step)))  # on a tie, the newest
        return kept
