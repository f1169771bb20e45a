"""Boxes: overlap, matching and average precision, beside torchvision, SciPy, transformers, pycocotools."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import torch

from mmjax.batch import BoxTargets
from mmjax.data.boxes import FORMATS
from mmjax.evals.coco import coco_metrics
from mmjax.evals.detection import Detections, iou
from mmjax.objectives.boxes import assign_columns, box_overlaps, match_queries
from peers.comparison import Comparison


def boxes(num: int, seed: int) -> np.ndarray:
    """Centres and sizes, float32 "num 4", within the unit square."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.1, 0.5, (num, 2))
    return np.concatenate([rng.uniform(size / 2, 1 - size / 2), size], axis=1).astype(np.float32)


def corners(x: np.ndarray) -> torch.Tensor:
    import torchvision

    return torchvision.ops.box_convert(torch.from_numpy(x), "cxcywh", "xyxy")


def convert(source: str):
    import torchvision

    x = boxes(20, 0)
    given = torchvision.ops.box_convert(torch.from_numpy(x), "cxcywh", source).numpy()
    return FORMATS[source](given), torchvision.ops.box_convert(torch.from_numpy(given), source, "cxcywh")


def overlaps(which: int):
    import torchvision

    first, second = boxes(12, 0), boxes(9, 1)
    pairs = [jnp.asarray(x) for x in np.broadcast_arrays(first[:, None], second[None])]
    function = (torchvision.ops.box_iou, torchvision.ops.generalized_box_iou)[which]
    return box_overlaps(*pairs)[which], function(corners(first), corners(second))


def overlaps_of_evaluation():
    import torchvision

    first, second = boxes(12, 0), boxes(9, 1)
    return iou(first, second), torchvision.ops.box_iou(corners(first), corners(second))


def assignment():
    from scipy.optimize import linear_sum_assignment

    cost = np.random.default_rng(0).normal(size=(10, 5, 8)).astype(np.float32)
    theirs = [linear_sum_assignment(each)[1] for each in cost]
    return jax.jit(assign_columns)(jnp.asarray(cost)), np.stack(theirs)


def detr_matching():
    from transformers.loss.loss_for_object_detection import HungarianMatcher

    rng = np.random.default_rng(0)
    predicted = boxes(2 * 8, 0).reshape(2, 8, 4)
    logits = rng.normal(size=(2, 8, 4)).astype(np.float32)
    true, classes = boxes(2 * 3, 1).reshape(2, 3, 4), rng.integers(0, 3, (2, 3))
    targets = BoxTargets(jnp.asarray(true), jnp.asarray(classes), jnp.ones((2, 3), bool))
    ours = jax.jit(lambda x, y: match_queries(x, y, targets, 5.0, 2.0))(predicted, logits)
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    pairs = matcher(
        {"logits": torch.from_numpy(logits), "pred_boxes": torch.from_numpy(predicted)},
        [
            {"class_labels": torch.from_numpy(c), "boxes": torch.from_numpy(b)}
            for c, b in zip(classes, true, strict=True)
        ],
    )
    return ours, np.stack([queries[objects.argsort()] for queries, objects in pairs])


def coco(crowds: bool):
    """Fifty images, three classes; some images without objects, some detections equal in score."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(3)
    num_true, num_found = 150, 6000
    true, true_images, classes = (
        boxes(num_true, 0),
        rng.integers(0, 40, num_true),
        rng.integers(0, 3, num_true),
    )
    is_crowd = (rng.uniform(size=num_true) < 0.15) & crowds
    found_images, found_classes = rng.integers(0, 50, num_found), rng.integers(0, 3, num_found)
    found, scores = boxes(num_found, 1), np.round(rng.uniform(size=num_found), 2)
    near = rng.integers(0, num_true, 300)  # detections near true boxes
    found[:300] = true[near] + rng.normal(scale=0.02, size=(300, 4))
    found_images[:300], found_classes[:300] = true_images[near], classes[near]
    ours = coco_metrics(
        Detections.of(found_images, found, found_classes, scores),
        Detections.of(true_images, true, classes, is_crowd=is_crowd), 3,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": n} for n in range(50)],
            "categories": [{"id": n} for n in range(3)],
            "annotations": [
                {"id": n + 1, "image_id": int(true_images[n]), "category_id": int(classes[n]),
                 "bbox": _xywh(true[n]), "area": float(true[n, 2:].astype(float).prod()),
                 "iscrowd": int(is_crowd[n])}
                for n in range(num_true)
            ],
        }  # fmt: skip
        truth.createIndex()
        detections = truth.loadRes([
            {"image_id": int(found_images[n]), "category_id": int(found_classes[n]), "bbox": _xywh(found[n]),
             "score": float(scores[n])}
            for n in range(num_found)
        ])  # fmt: skip
        evaluation = COCOeval(truth, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return ours, dict(zip(("AP", "AP50", "AP75"), evaluation.stats[:3], strict=True))


def _xywh(box: np.ndarray) -> list[float]:
    x = box.astype(float)
    return [*(x[:2] - x[2:] / 2), *x[2:]]


ROWS = (
    Comparison("boxes from xywh", "torchvision", "ops.box_convert", lambda: convert("xywh")),
    Comparison("boxes from xyxy", "torchvision", "ops.box_convert", lambda: convert("xyxy")),
    Comparison("IoU", "torchvision", "ops.box_iou", lambda: overlaps(0)),
    Comparison("generalised IoU", "torchvision", "ops.generalized_box_iou", lambda: overlaps(1)),
    Comparison("IoU of evaluations", "torchvision", "ops.box_iou", overlaps_of_evaluation),
    Comparison("assignment of rows to columns", "scipy", "optimize.linear_sum_assignment", assignment, 0),
    Comparison("matching of boxes to queries", "transformers", "HungarianMatcher", detr_matching, 0),
    Comparison("COCO AP, AP50, AP75", "pycocotools", "COCOeval", lambda: coco(False)),
    Comparison("COCO AP, AP50, AP75, with crowds", "pycocotools", "COCOeval", lambda: coco(True)),
)
