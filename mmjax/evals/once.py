"""Baselines need no model: they are measured once in a process, and not at each evaluation of a run."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from mmjax.data import Dataset
from mmjax.evals.base import Eval

Value = TypeVar("Value")
MAX_REMEMBERED = 256  # results, the oldest of which are forgotten first
_results: dict[tuple, Any] = {}
_LOCK = threading.RLock()


def once(evaluation: Eval, name: str, measure: Callable[[], Value]) -> Value:
    """Returns `measure()`, whose result is remembered for equal evaluations of the same data.

    Args:
      name: tells several results of one evaluation apart.
      measure: reads data, but no model. Its result should be small, such as metrics.
    """
    key = _key(evaluation, name)
    with _LOCK:
        if key not in _results:
            _results[key] = measure()
            while len(_results) > MAX_REMEMBERED:
                del _results[next(iter(_results))]
        return _results[key]


def is_known(evaluation: Eval, name: str) -> bool:
    """Whether `once` remembers the result."""
    return _key(evaluation, name) in _results


def _key(evaluation: Eval, name: str) -> tuple:
    # Opened datasets are shared by equal datasets of unchanged files; the other fields are literals.
    values = [getattr(evaluation, field.name) for field in dataclasses.fields(evaluation)]
    opened = [value.open() if isinstance(value, Dataset) else repr(value) for value in values]
    return type(evaluation), name, *opened
