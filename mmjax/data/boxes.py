"""One record -> the boxes around the objects in its picture."""

import dataclasses
from typing import Literal

import numpy as np

from mmjax.batch import BoxTargets
from mmjax.data.records import BadExample, Record, lookup
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class BoxesTransform:
    """Boxes as centre and size, in shares of the picture.

    The picture's own transform must keep all of it where it is: a size of its aspect, no crop, flip or shift.
    To mirror both together, look through `views.Flip`.

    Args:
        field: path to a list of four numbers a box, in shares of the picture.
        labels: path to a list of as many names of classes.
        classes: the names, in the order of their numbers.
        most: boxes an example; a record with more is a bad example.
        form: what the four numbers are: left, top, width and height, or the corners, or centre and size.
        optional: a record without the field is an example without this stream.
    """

    field: str
    labels: str
    classes: tuple[str, ...]
    max_boxes: int
    form: Literal["left_top_size", "corners", "centre_size"] = "left_top_size"
    optional: bool = False

    def __post_init__(self):
        if self.form not in FORMS:
            raise InputError(f"expected a form of boxes among {list(FORMS)}, found {self.form!r}")

    def decode(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """float32 "n 4" and int32 "n". Raises BadExample when they are no boxes within the picture."""
        key = record["__key__"]
        names, given = lookup(record, self.labels), lookup(record, self.field)
        try:
            boxes = FORMS[self.form](np.asarray(given, np.float32).reshape(-1, 4))
        except (TypeError, ValueError) as error:
            raise BadExample(key, f"expected four numbers a box in {self.field!r}, found {error}") from error
        if len(names) != len(boxes):
            raise BadExample(
                key, f"expected as many {self.labels!r} as boxes, found {len(names)} and {len(boxes)}"
            )
        if len(boxes) > self.max_boxes:
            raise BadExample(key, f"expected at most {self.max_boxes} boxes (max_boxes), found {len(boxes)}")
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise BadExample(
                key, f"expected classes among {list(self.classes)} in {self.labels!r}, found {unknown}"
            )
        # A box may stand over the edge by what rounding makes of it; one that is in pixels does by far.
        if not ((boxes[:, 2:] > 0).all() and (boxes > -0.01).all() and (boxes < 1.01).all()):
            raise BadExample(
                key, f"expected boxes in shares of the picture ({self.form}) in {self.field!r}, found {given}"
            )
        return boxes, np.array([self.classes.index(name) for name in names], np.int32)

    def augment(self, decoded: tuple[np.ndarray, np.ndarray], rng: np.random.Generator | None) -> BoxTargets:
        """Filled up to `max_boxes`: nothing here is random."""
        boxes, classes = decoded
        left = self.max_boxes - len(boxes)
        mask = np.arange(self.max_boxes) < len(boxes)
        return BoxTargets(np.pad(boxes, ((0, left), (0, 0))), np.pad(classes, (0, left)), mask)

    def empty(self) -> BoxTargets:
        """No box."""
        return self.augment((np.zeros((0, 4), np.float32), np.zeros(0, np.int32)), None)


def _from_corners(x: np.ndarray) -> np.ndarray:
    return np.concatenate([(x[:, :2] + x[:, 2:]) / 2, x[:, 2:] - x[:, :2]], axis=1)


FORMS = {
    "left_top_size": lambda x: np.concatenate([x[:, :2] + x[:, 2:] / 2, x[:, 2:]], axis=1),
    "corners": _from_corners,
    "centre_size": lambda x: x,
}
