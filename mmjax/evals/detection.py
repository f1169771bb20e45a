"""Average precision of detected boxes, in NumPy."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Detections:
    """Boxes in a set of images: those that a model detects, or the true ones, whose scores are 1."""

    images: np.ndarray  # int "N", the number of each box's image
    boxes: np.ndarray  # float "N 4", centre and size as fractions of the image
    classes: np.ndarray  # int "N"
    scores: np.ndarray  # float "N"

    @classmethod
    def concatenate(cls, parts: "Sequence[Detections]") -> "Detections":
        """All boxes of the parts."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def of_class(self, index: int) -> "Detections":
        """The boxes of one class, highest score first."""
        rows = np.flatnonzero(self.classes == index)
        rows = rows[np.argsort(-self.scores[rows], kind="stable")]
        return Detections(self.images[rows], self.boxes[rows], self.classes[rows], self.scores[rows])


def average_precision(detections: Detections, targets: Detections, index: int, min_iou: float = 0.5) -> float:
    """Area under the precision-recall curve of class `index`; NaN if `targets` has no box of it.

    Precision is made monotonic. In order of falling score, a detection is right if the true box that it
    overlaps most has at least `min_iou` and is not yet matched (Everingham et al. 2010, PASCAL VOC).
    """
    detections, targets = detections.of_class(index), targets.of_class(index)
    if not len(targets.boxes):
        return float("nan")
    is_matched = np.zeros(len(targets.boxes), bool)
    is_right = np.zeros(len(detections.boxes), bool)
    rows_by_image = {image: np.flatnonzero(targets.images == image) for image in np.unique(targets.images)}
    for n, (image, box) in enumerate(zip(detections.images, detections.boxes, strict=True)):
        rows = rows_by_image.get(image, np.zeros(0, int))
        if len(rows):
            overlap = iou(box[None], targets.boxes[rows])[0]
            best = rows[overlap.argmax()]
            is_right[n] = overlap.max() >= min_iou and not is_matched[best]
            is_matched[best] |= is_right[n]
    precision = np.cumsum(is_right) / np.arange(1, len(is_right) + 1)
    monotonic = np.maximum.accumulate(precision[::-1])[::-1]
    return float((monotonic * is_right).sum() / len(targets.boxes))


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes given as centre and size: "N 4" and "M 4" -> "N M"."""
    first, second = first[:, None], second[None, :]
    low = np.maximum(first[..., :2] - first[..., 2:] / 2, second[..., :2] - second[..., 2:] / 2)
    high = np.minimum(first[..., :2] + first[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2)
    intersection = np.clip(high - low, 0, None).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - intersection
    return intersection / np.maximum(union, 1e-12)
