"""One comparison: the same input, given to mmjax and to a library of record."""

import dataclasses
import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A row of the table.

    what: what is computed.
    package: the library of record, as pip calls it.
    function: the library's function or class.
    run: () -> (mmjax's value, the library's value); arrays, numbers, or lists and dicts of them.
    within: the largest absolute difference that is allowed.
    reason: of a known difference.
    """

    what: str
    package: str
    function: str
    run: Callable[[], tuple[Any, Any]]
    within: float = 1e-5
    reason: str = ""

    def reference(self) -> str:
        """Library, version and function."""
        version = importlib.metadata.version(self.package).partition("+")[0]
        return f"{self.package} {version} `{self.function}`"

    def difference(self) -> float:
        """The largest absolute difference of any number; infinite if shapes or other values differ."""
        return largest_difference(*self.run())


def largest_difference(ours: Any, theirs: Any) -> float:
    """As `Comparison.difference`."""
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return float("inf")
        return max((largest_difference(ours[key], theirs[key]) for key in ours), default=0.0)
    if isinstance(ours, str | bytes):
        return 0.0 if ours == theirs else float("inf")
    if isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            return float("inf")
        return max((largest_difference(*pair) for pair in zip(ours, theirs, strict=True)), default=0.0)
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return float("inf")
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return float("inf") if np.isnan(difference).any() else float(difference.max(initial=0.0))
