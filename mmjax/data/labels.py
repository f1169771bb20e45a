"""One record -> one class."""

import dataclasses

import numpy as np

from mmjax.batch import Labels
from mmjax.data.records import BadExample, Record, lookup


@dataclasses.dataclass(frozen=True)
class LabelTransform:
    """The class's number.

    Args:
        field: path to a number, or to a name if ``classes`` are given.
        classes: the names, in the order of their numbers.
        optional: a record without the field is an example without this stream.
    """

    field: str
    classes: tuple[str, ...] | None = None
    optional: bool = False

    def decode(self, record: Record) -> np.ndarray:
        """int32, no axis. Raises BadExample when it is no class."""
        key, value = record["__key__"], lookup(record, self.field)
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace").strip()
        if self.classes is not None and isinstance(value, str):
            if value not in self.classes:
                raise BadExample(
                    key,
                    f"expected one of the classes {list(self.classes)} in {self.field!r}, found {value!r}",
                )
            value = self.classes.index(value)
        try:
            number = int(value)
        except (TypeError, ValueError) as error:
            raise BadExample(key, f"expected a class number in {self.field!r}, found {value!r}") from error
        if number != float(value) or number < 0 or (self.classes is not None and number >= len(self.classes)):
            limit = "" if self.classes is None else f" below {len(self.classes)}"
            raise BadExample(key, f"expected a class number{limit} in {self.field!r}, found {value!r}")
        return np.asarray(number, np.int32)

    def augment(self, decoded: np.ndarray, rng: np.random.Generator | None) -> Labels:
        """The same class: nothing here is random."""
        return Labels(decoded, np.asarray(True))

    def empty(self) -> Labels:
        """No class."""
        return Labels(np.asarray(0, np.int32), np.asarray(False))
