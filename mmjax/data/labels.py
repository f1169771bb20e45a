"""One record -> one class."""

import dataclasses
import re
from typing import Any

import numpy as np

from mmjax.batch import Labels
from mmjax.data.records import BadExample, Record, lookup
from mmjax.data.transform import Transform
from mmjax.errors import InputError, excerpt
from mmjax.ranges import MAX_INT, Size


@dataclasses.dataclass(frozen=True)
class LabelTransform(Transform):
    """Reads a class as its index.

    field: path to an index, or to a name where `classes` is given.
    classes: the class names; a name's index is its class.
    optional: the record may lack the field; the example then lacks this stream.
    num_classes: of a field of indices without `classes`: a record with another index is a bad example.
        In a run, None becomes the number of classes of the head that learns them.
    """

    field: str
    classes: tuple[str, ...] | None = None
    optional: bool = False
    num_classes: Size | None = None

    def __post_init__(self):
        if self.classes is not None and self.num_classes is not None:
            raise InputError("LabelTransform expects classes or num_classes, found both")

    def decode(self, record: Record) -> np.ndarray:
        """Returns the class, an int32 scalar."""
        key, value = record["__key__"], lookup(record, self.field)
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace").strip()
        if self.classes is not None and isinstance(value, str):
            return class_indices(key, self.field, [value], self.classes)[0]
        last = (len(self.classes) if self.classes is not None else self.num_classes or MAX_INT + 1) - 1
        number = _whole_number(value)
        if number is None or not 0 <= number <= last:
            expected = f"a class number from 0 to {last}"
            raise BadExample(key, f"expected {expected} in {self.field!r}, found {excerpt(value)}")
        return np.asarray(number, np.int32)

    def augment(self, decoded: np.ndarray, rng: np.random.Generator | None) -> Labels:
        return Labels(decoded, np.asarray(True))

    def empty(self) -> Labels:
        return Labels(np.asarray(0, np.int32), np.asarray(False))


def _whole_number(value: Any) -> int | None:
    """The whole number that a value of a record is: 3, 3.0 or "3"; None: it is none."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[0-9]{1,12}\s*", value) else None
    if isinstance(value, bool | np.bool_) or np.ndim(value) != 0:
        return None
    value = value.item() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def class_indices(key: str, field: str, names: Any, classes: tuple[str, ...]) -> np.ndarray:
    """The index of each name of a list in `classes`, int32 "n".

    Raises:
        BadExample: the names are no list, or one of them is not among the classes.
    """
    if not isinstance(names, list | tuple | np.ndarray):
        raise BadExample(key, f"expected a list of classes in {field!r}, found {excerpt(names)}")
    if unknown := [name for name in names if not isinstance(name, str) or name not in classes]:
        expected = f"classes among {excerpt(list(classes))}"
        raise BadExample(key, f"expected {expected} in {field!r}, found {excerpt(unknown)}")
    return np.array([classes.index(name) for name in names], np.int32)
