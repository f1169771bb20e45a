"""One record -> the bounding boxes of the objects in its image."""

import dataclasses
from typing import Literal

import numpy as np

from mmjax.batch import BoxTargets
from mmjax.data.labels import class_indices
from mmjax.data.records import BadExample, Record, lookup
from mmjax.data.transform import Transform
from mmjax.errors import InputError


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
    max_boxes: int
    format: Literal["xywh", "xyxy", "cxcywh"] = "xywh"
    optional: bool = False

    def __post_init__(self):
        if self.format not in FORMATS:
            raise InputError(f"expected a format of boxes among {list(FORMATS)}, found {self.format!r}")

    def decode(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """Returns boxes, float32 "n 4", and classes, int32 "n"."""
        key = record["__key__"]
        names, given = lookup(record, self.labels), lookup(record, self.field)
        try:
            boxes = FORMATS[self.format](np.asarray(given, np.float32).reshape(-1, 4))
        except (TypeError, ValueError) as error:
            raise BadExample(key, f"expected four numbers a box in {self.field!r}, found {error}") from error
        if len(names) != len(boxes):
            raise BadExample(
                key, f"expected as many {self.labels!r} as boxes, found {len(names)} and {len(boxes)}"
            )
        if len(boxes) > self.max_boxes:
            raise BadExample(key, f"expected max_boxes={self.max_boxes} or fewer, found {len(boxes)} boxes")
        classes = class_indices(key, self.labels, names, self.classes)
        # The tolerance admits rounding errors at the border; boxes in pixels exceed it by far.
        if not ((boxes[:, 2:] > 0).all() and (boxes > -0.01).all() and (boxes < 1.01).all()):
            expected = f"boxes in fractions of the image, format={self.format!r}"
            raise BadExample(key, f"expected {expected}, in {self.field!r}, found {given}")
        return boxes, classes

    def augment(self, decoded: tuple[np.ndarray, np.ndarray], rng: np.random.Generator | None) -> BoxTargets:
        boxes, classes = decoded
        padding = self.max_boxes - len(boxes)
        mask = np.arange(self.max_boxes) < len(boxes)
        return BoxTargets(np.pad(boxes, ((0, padding), (0, 0))), np.pad(classes, (0, padding)), mask)

    def empty(self) -> BoxTargets:
        return self.augment((np.zeros((0, 4), np.float32), np.zeros(0, np.int32)), None)


# Each turns "n 4" of a format into cxcywh.
FORMATS = {
    "xywh": lambda x: np.concatenate([x[:, :2] + x[:, 2:] / 2, x[:, 2:]], axis=1),
    "xyxy": lambda x: np.concatenate([(x[:, :2] + x[:, 2:]) / 2, x[:, 2:] - x[:, :2]], axis=1),
    "cxcywh": lambda x: x,
}
