"""One record -> the bounding boxes of the objects in its image."""

import dataclasses
from typing import Any, Literal

import numpy as np

from mmjax.batch import BoxTargets
from mmjax.data.labels import class_indices
from mmjax.data.records import BadExample, Record, lookup
from mmjax.data.transform import Transform
from mmjax.errors import excerpt
from mmjax.ranges import Size


@dataclasses.dataclass(frozen=True)
class BoxesTransform(Transform):
    """Reads boxes as centre and size, in fractions of the image's width and height.

    The image's own transform must not move its content: use a size of its aspect ratio, without crop, flip or
    shift. `views.Flip` flips the image together with its boxes.

    field: path to a list of boxes, each four numbers in fractions of the image.
    labels: path to a list with the class name of each box.
    classes: the class names; a name's index is its class.
    max_boxes: number of boxes that every example is padded to; a record with more is a bad example.
    format: of the four numbers: left, top, width, height (xywh); left, top, right, bottom (xyxy); or
        centre x, centre y, width, height (cxcywh).
    optional: the record may lack the field; the example then lacks this stream.
    """

    field: str
    labels: str
    classes: tuple[str, ...]
    max_boxes: Size
    format: Literal["xywh", "xyxy", "cxcywh"] = "xywh"
    optional: bool = False

    def decode(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """Returns boxes, float32 "n 4", and classes, int32 "n"."""
        key = record["__key__"]
        names, given = lookup(record, self.labels), lookup(record, self.field)
        given = _four_numbers_each(key, self.field, given)
        classes = class_indices(key, self.labels, names, self.classes)
        if len(classes) != len(given):
            raise BadExample(
                key, f"expected as many {self.labels!r} as boxes, found {len(classes)} and {len(given)}"
            )
        if len(given) > self.max_boxes:
            expected = f"max_boxes={self.max_boxes} or fewer"
            raise BadExample(key, f"expected {expected} in {self.field!r}, found {len(given)} boxes")
        with np.errstate(over="ignore", invalid="ignore"):
            boxes = FORMATS[self.format](given.astype(np.float32))
            half = boxes[:, 2:] / 2
            corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
        # The tolerance admits rounding errors at the border; boxes in pixels exceed it by far.
        is_valid = (boxes[:, 2:] > 0).all(1) & (corners > -0.01).all(1) & (corners < 1.01).all(1)
        if not is_valid.all():  # as for NaN
            index = int(np.argmin(is_valid))
            expected = f"boxes inside the image, in fractions from 0 to 1, format={self.format!r}"
            found = f"{given[index].tolist()} as box {index}"
            raise BadExample(key, f"expected {expected}, in {self.field!r}, found {found}")
        return boxes, classes

    def augment(self, decoded: tuple[np.ndarray, np.ndarray], rng: np.random.Generator | None) -> BoxTargets:
        boxes, classes = decoded
        padding = self.max_boxes - len(boxes)
        mask = np.arange(self.max_boxes) < len(boxes)
        return BoxTargets(np.pad(boxes, ((0, padding), (0, 0))), np.pad(classes, (0, padding)), mask)

    def empty(self) -> BoxTargets:
        return self.augment((np.zeros((0, 4), np.float32), np.zeros(0, np.int32)), None)


def _four_numbers_each(key: str, field: str, boxes: Any) -> np.ndarray:
    """A list of boxes as float64 "n 4". Raises BadExample unless each is four numbers."""
    try:
        numbers = np.asarray(boxes)
    except ValueError:  # boxes of different lengths
        numbers = np.asarray(None)
    if numbers.size == 0 and numbers.ndim in (1, 2):  # [] and the shape (0, 4)
        return np.zeros((0, 4))
    if numbers.ndim != 2 or numbers.shape[1] != 4 or numbers.dtype.kind not in "iuf":
        found = excerpt(boxes)
        raise BadExample(key, f"expected a list of boxes of four numbers in {field!r}, found {found}")
    return numbers.astype(np.float64)


# Each turns "n 4" of a format into cxcywh.
FORMATS = {
    "xywh": lambda x: np.concatenate([x[:, :2] + x[:, 2:] / 2, x[:, 2:]], axis=1),
    "xyxy": lambda x: np.concatenate([(x[:, :2] + x[:, 2:]) / 2, x[:, 2:] - x[:, :2]], axis=1),
    "cxcywh": lambda x: x,
}
