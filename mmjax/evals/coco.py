"""Average precision of detected boxes as COCO measures it (Lin et al. 2014), in NumPy.

The results equal those of the pycocotools package: area "all", 101 recalls, at most 100 detections of a class
in an image.
"""

import numpy as np

from mmjax.evals.detection import Detections, intersection, iou

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100  # of a class in an image


def coco_metrics(detections: Detections, targets: Detections, num_classes: int) -> dict[str, float]:
    """{"AP", "AP50", "AP75"}: means over the classes that have a true box.

    "AP" is also the mean over the IoU thresholds .5, .55, ..., .95.
    """
    precisions = [class_precisions(detections, targets, index) for index in range(num_classes)]
    precisions = np.stack([each for each in precisions if each is not None])
    by_threshold = precisions.mean(axis=0)
    return {
        "AP": float(by_threshold.mean()),
        "AP50": float(by_threshold[0]),
        "AP75": float(by_threshold[5]),
    }


def class_precisions(detections: Detections, targets: Detections, index: int) -> np.ndarray | None:
    """Average precision of one class at each IoU threshold, float "10"; None if no true box counts."""
    detections, targets = detections.of_class(index), targets.of_class(index)
    num_targets = int((~targets.is_crowd).sum())
    if not num_targets:
        return None
    scores, is_right, is_ignored = [], [], []
    for image in np.unique(detections.images):
        found = detections.take(np.flatnonzero(detections.images == image)[:MAX_DETECTIONS])
        true = targets.take(np.flatnonzero(targets.images == image))
        right, ignored = match(found, true)
        scores.append(found.scores)
        is_right.append(right)
        is_ignored.append(ignored)
    if not scores:
        return np.zeros(len(IOU_THRESHOLDS))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right, ignored = np.concatenate(is_right, axis=1)[:, order], np.concatenate(is_ignored, axis=1)[:, order]
    rows = zip(right, ignored, strict=True)
    return np.asarray([_interpolated(row[~skipped], num_targets) for row, skipped in rows])


def match(found: Detections, true: Detections) -> tuple[np.ndarray, np.ndarray]:
    """(is right, is ignored) of each detection in one image at each IoU threshold, bool "10 N".

    In order of falling score, a detection takes the free true box that it overlaps most, if by the threshold
    at least. Otherwise it may take a crowd, as may many others, and is ignored.

    Args:
      found: of one class in one image, highest score first.
      true: the true boxes of the class in the image.
    """
    true = true.take(np.argsort(true.is_crowd, kind="stable"))
    overlaps = _overlaps(found, true)
    right = np.zeros((len(IOU_THRESHOLDS), len(found.scores)), bool)
    ignored = np.zeros_like(right)
    for level, threshold in enumerate(IOU_THRESHOLDS):
        is_taken = np.zeros(len(true.scores), bool)
        for n, row in enumerate(overlaps):
            for candidates in (~true.is_crowd & ~is_taken, true.is_crowd):
                eligible = np.flatnonzero(candidates & (row >= min(threshold, 1 - 1e-10)))
                if not len(eligible):
                    continue
                # Of equal overlaps the last, as in pycocotools.
                best = eligible[len(eligible) - 1 - row[eligible][::-1].argmax()]
                is_taken[best] = True
                right[level, n], ignored[level, n] = not true.is_crowd[best], true.is_crowd[best]
                break
    return right, ignored


def _overlaps(found: Detections, true: Detections) -> np.ndarray:
    """IoU "N M"; with a crowd, the fraction of the detection that is inside it."""
    inside = intersection(found.boxes, true.boxes) / np.maximum(found.boxes[:, 2:].prod(-1), 1e-12)[:, None]
    return np.where(true.is_crowd[None], inside, iou(found.boxes, true.boxes))


def _interpolated(is_right: np.ndarray, num_targets: int) -> float:
    """The mean over 101 recalls of the highest precision at that recall or above.

    Args:
      is_right: bool "N", highest score first.
    """
    hits = np.cumsum(is_right)
    precision = hits / (np.arange(1, len(hits) + 1) + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    indices = np.searchsorted(hits / num_targets, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(indices, len(precision))].mean())
