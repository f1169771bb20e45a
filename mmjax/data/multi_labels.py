"""One record -> any number of classes."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.batch import MultiLabels
from mmjax.data.records import BadExample, Record, lookup
from mmjax.data.transform import Transform
from mmjax.errors import InputError, excerpt


@dataclasses.dataclass(frozen=True)
class MultiLabelTransform(Transform):
    """Reads which classes apply, from a list of them.

    field: path to a list of names or indices, which may be empty, or to a bool array "classes".
    classes: the class names; a name's index is its class.
    optional: the record may lack the field; the example then lacks this stream.
    skip_unknown: ignore names that are not among `classes`; otherwise they make the example bad.
    """

    field: str
    classes: tuple[str, ...]
    optional: bool = False
    skip_unknown: bool = False

    def __post_init__(self):
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise InputError(f"expected the names of the classes, each once, found {self.classes}")

    def decode(self, record: Record) -> np.ndarray:
        """Returns whether each class applies, bool "classes"."""
        key, value = record["__key__"], lookup(record, self.field)
        if isinstance(value, np.ndarray) and value.dtype == bool:
            if value.shape != (len(self.classes),):
                raise BadExample(
                    key,
                    f"expected {len(self.classes)} bools in {self.field!r}, found the shape "
                    f"{list(value.shape)}",
                )
            return value.copy()
        if not isinstance(value, list | np.ndarray) or (isinstance(value, np.ndarray) and value.ndim != 1):
            raise BadExample(key, f"expected a list of classes in {self.field!r}, found {excerpt(value)}")
        applies = np.zeros(len(self.classes), bool)
        for item in value:
            if self.skip_unknown and isinstance(item, str) and item not in self.classes:
                continue
            applies[self._index(key, item)] = True
        return applies

    def _index(self, key: str, item: Any) -> int:
        if isinstance(item, str) and item in self.classes:
            return self.classes.index(item)
        if isinstance(item, int | np.integer) and not isinstance(item, bool):
            index = int(item)
            if 0 <= index < len(self.classes):
                return index
        raise BadExample(
            key,
            f"expected classes among {excerpt(list(self.classes))} in {self.field!r}, or "
            f"numbers from 0 to {len(self.classes) - 1}, found {excerpt(item)}: correct it, add it to the "
            "classes, or set skip_unknown=True",
        )

    def augment(self, decoded: np.ndarray, rng: np.random.Generator | None) -> MultiLabels:
        return MultiLabels(decoded, np.ones(len(self.classes), bool))

    def empty(self) -> MultiLabels:
        return MultiLabels(np.zeros(len(self.classes), bool), np.zeros(len(self.classes), bool))
