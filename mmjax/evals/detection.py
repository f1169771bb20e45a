"""Average precision of detected boxes as PASCAL VOC measures it, in NumPy; COCO's is in coco.py."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Detections:
    """Boxes in a set of images: those that a model detects, or the true ones, whose scores are 1.

    is_crowd: whether a true box holds a group of objects, or is too difficult: to find it is neither right
      nor wrong.
    """

    images: np.ndarray  # int "N", the number of each box's image
    boxes: np.ndarray  # float "N 4", centre and size as fractions of the image
    classes: np.ndarray  # int "N"
    scores: np.ndarray  # float "N"
    is_crowd: np.ndarray  # bool "N"

    @classmethod
    def of(
        cls,
        images: np.ndarray,
        boxes: np.ndarray,
        classes: np.ndarray,
        scores: np.ndarray | None = None,
        is_crowd: np.ndarray | None = None,
    ) -> "Detections":
        """With scores of 1, and no crowd, unless given."""
        size = len(images)
        scores = np.ones(size) if scores is None else scores
        is_crowd = np.zeros(size, bool) if is_crowd is None else is_crowd
        boxes = np.asarray(boxes, np.float64).reshape(size, 4)
        return cls(images, boxes, classes, scores, is_crowd)

    @classmethod
    def concatenate(cls, parts: "Sequence[Detections]") -> "Detections":
        """All boxes of the parts."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def take(self, rows: np.ndarray) -> "Detections":
        """The boxes with these indices."""
        return Detections(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    def of_class(self, index: int) -> "Detections":
        """The boxes of one class, highest score first."""
        rows = np.flatnonzero(self.classes == index)
        return self.take(rows[np.argsort(-self.scores[rows], kind="stable")])


def average_precision(detections: Detections, targets: Detections, index: int, min_iou: float = 0.5) -> float:
    """Area under the precision-recall curve of class `index`; NaN if no true box of it counts.

    Precision is made monotonic. In order of falling score, a detection is right if the true box that it
    overlaps most has at least `min_iou` and is not yet matched; it is left out if that box is a crowd
    (Everingham et al. 2010, PASCAL VOC, whose word is "difficult").
    """
    detections, targets = detections.of_class(index), targets.of_class(index)
    num_targets = int((~targets.is_crowd).sum())
    if not num_targets:
        return float("nan")
    is_matched = np.zeros(len(targets.boxes), bool)
    is_right = np.zeros(len(detections.boxes), bool)
    is_counted = np.ones(len(detections.boxes), bool)
    rows_by_image = {image: np.flatnonzero(targets.images == image) for image in np.unique(targets.images)}
    for n, (image, box) in enumerate(zip(detections.images, detections.boxes, strict=True)):
        rows = rows_by_image.get(image, np.zeros(0, int))
        if len(rows):
            overlap = iou(box[None], targets.boxes[rows])[0]
            best = rows[overlap.argmax()]
            overlaps = overlap.max() >= min_iou
            is_counted[n] = not (overlaps and targets.is_crowd[best])
            is_right[n] = overlaps and is_counted[n] and not is_matched[best]
            is_matched[best] |= is_right[n]
    is_right = is_right[is_counted]
    precision = np.cumsum(is_right) / np.arange(1, len(is_right) + 1)
    monotonic = np.maximum.accumulate(precision[::-1])[::-1]
    return float((monotonic * is_right).sum() / num_targets)


def intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Areas that boxes given as centre and size share: "N 4" and "M 4" -> "N M"."""
    first, second = first[:, None], second[None, :]
    low = np.maximum(first[..., :2] - first[..., 2:] / 2, second[..., :2] - second[..., 2:] / 2)
    high = np.minimum(first[..., :2] + first[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2)
    return np.clip(high - low, 0, None).prod(-1)


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes given as centre and size: "N 4" and "M 4" -> "N M"."""
    shared = intersection(first, second)
    union = first[:, None, 2:].prod(-1) + second[None, :, 2:].prod(-1) - shared
    return shared / np.maximum(union, 1e-12)
