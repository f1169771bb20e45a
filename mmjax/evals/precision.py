"""Average precision of boxes: what is claimed, ranked by score, against what a person has marked. NumPy."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Detections:
    """Boxes that are claimed: which picture "N", centre and size "N 4", class "N", score "N"."""

    picture: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def of(self, kind: int) -> "Found":
        """Those of one class, the surest first."""
        rows = np.flatnonzero(self.classes == kind)
        rows = rows[np.argsort(-self.scores[rows], kind="stable")]
        return Detections(self.picture[rows], self.boxes[rows], self.classes[rows], self.scores[rows])


def average_precision(found: Detections, marked: Detections, kind: int, least_iou: float = 0.5) -> float:
    """Area under precision over recall, the precision made to fall (Everingham et al. 2010, PASCAL VOC).

    The surest claim comes first and takes the marked box that it overlaps most; if that is taken, it errs.
    NaN where nothing of the class is marked.
    """
    claims, truths = found.of(kind), marked.of(kind)
    if not len(truths.boxes):
        return float("nan")
    taken = np.zeros(len(truths.boxes), bool)
    right = np.zeros(len(claims.boxes), bool)
    of_picture = {picture: np.flatnonzero(truths.picture == picture) for picture in np.unique(truths.picture)}
    for n, (picture, box) in enumerate(zip(claims.picture, claims.boxes, strict=True)):
        rows = of_picture.get(picture, np.zeros(0, int))
        if len(rows):
            overlap = iou(box[None], truths.boxes[rows])[0]
            best = rows[overlap.argmax()]
            right[n] = overlap.max() >= least_iou and not taken[best]
            taken[best] |= right[n]
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((falling * right).sum() / len(truths.boxes))


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes as centre and size: "N 4" and "M 4" -> "N M"."""
    one, other = one[:, None], other[None, :]
    low = np.maximum(one[..., :2] - one[..., 2:] / 2, other[..., :2] - other[..., 2:] / 2)
    high = np.minimum(one[..., :2] + one[..., 2:] / 2, other[..., :2] + other[..., 2:] / 2)
    common = np.clip(high - low, 0, None).prod(-1)
    union = one[..., 2:].prod(-1) + other[..., 2:].prod(-1) - common
    return common / np.maximum(union, 1e-12)
