"""One record -> any number of classes."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.batch import MultiLabels
from mmjax.data.records import BadExample, Record, lookup
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class MultiLabelTransform:
    """A yes or a no for each class, from the list of those that apply.

    Args:
        field: path to a list of names or numbers (an empty one: none applies), or to a bool array "classes".
        classes: the names, in the order of their numbers.
        optional: a record without the field is an example without this stream.
        skip_unknown: names that are not among the classes are passed over, where the classes are some of many;
            otherwise one makes the example a bad one.
    """

    field: str
    classes: tuple[str, ...]
    optional: bool = False
    skip_unknown: bool = False

    def __post_init__(self):
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise InputError(f"expected the names of the classes, each once, found {self.classes}")

    def decode(self, record: Record) -> np.ndarray:
        """bool "classes". Raises BadExample when it is no list of classes."""
        key, value = record["__key__"], lookup(record, self.field)
        if isinstance(value, np.ndarray) and value.dtype == bool:
            if value.shape != (len(self.classes),):
                raise BadExample(
                    key,
                    f"expected {len(self.classes)} answers in {self.field!r}, found the shape {value.shape}",
                )
            return value.copy()
        if not isinstance(value, list | np.ndarray):
            raise BadExample(key, f"expected a list of classes in {self.field!r}, found {value!r}")
        answers = np.zeros(len(self.classes), bool)
        for item in value:
            if self.skip_unknown and isinstance(item, str) and item not in self.classes:
                continue
            answers[self._number(key, item)] = True
        return answers

    def _number(self, key: str, item: Any) -> int:
        if isinstance(item, str) and item in self.classes:
            return self.classes.index(item)
        if isinstance(item, int | np.integer) and not isinstance(item, bool):
            number = int(item)
            if 0 <= number < len(self.classes):
                return number
        raise BadExample(
            key,
            f"expected classes among {list(self.classes)} in {self.field!r}, or numbers, found {item!r}: "
            "correct it, add it to the classes, or set skip_unknown=True",
        )

    def augment(self, decoded: np.ndarray, rng: np.random.Generator | None) -> MultiLabels:
        """The same classes: nothing here is random."""
        return MultiLabels(decoded, np.ones(len(self.classes), bool))

    def empty(self) -> MultiLabels:
        """Nobody knows."""
        return MultiLabels(np.zeros(len(self.classes), bool), np.zeros(len(self.classes), bool))
