"""One record -> one class."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmjax.batch import Labels
from mmjax.data.records import BadExample, Record, lookup
from mmjax.data.transform import Transform


@dataclasses.dataclass(frozen=True)
class LabelTransform(Transform):
    """Reads a class as its index.

    field: path to an index, or to a name where `classes` is given.
    classes: the class names; a name's index is its class.
    optional: the record may lack the field; the example then lacks this stream.
    """

    field: str
    classes: tuple[str, ...] | None = None
    optional: bool = False

    def decode(self, record: Record) -> np.ndarray:
        """Returns the class, an int32 scalar."""
        key, value = record["__key__"], lookup(record, self.field)
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace").strip()
        if self.classes is not None and isinstance(value, str):
            value = class_indices(key, self.field, [value], self.classes)[0]
        try:
            number = int(value)
        except (TypeError, ValueError) as error:
            raise BadExample(key, f"expected a class number in {self.field!r}, found {value!r}") from error
        if number != float(value) or number < 0 or (self.classes is not None and number >= len(self.classes)):
            limit = "" if self.classes is None else f" below {len(self.classes)}"
            raise BadExample(key, f"expected a class number{limit} in {self.field!r}, found {value!r}")
        return np.asarray(number, np.int32)

    def augment(self, decoded: np.ndarray, rng: np.random.Generator | None) -> Labels:
        return Labels(decoded, np.asarray(True))

    def empty(self) -> Labels:
        return Labels(np.asarray(0, np.int32), np.asarray(False))


def class_indices(key: str, field: str, names: Sequence[str], classes: tuple[str, ...]) -> np.ndarray:
    """The index of each name in `classes`, int32 "n". Raises BadExample if a name is not among them."""
    if unknown := sorted(set(names) - set(classes)):
        raise BadExample(key, f"expected classes among {list(classes)} in {field!r}, found {unknown}")
    return np.array([classes.index(name) for name in names], np.int32)
