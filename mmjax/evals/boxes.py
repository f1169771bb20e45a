"""Object detection.

mAP50                             mean over the classes of the average precision at IoU .5
AP50/<class>                      of each class
mAP50/blind, AP50/<class>/blind   of the most common training boxes, the same for every image; needs `train`
"""

import dataclasses
from functools import partial

import numpy as np

from mmjax import data
from mmjax.batch import BoxTargets
from mmjax.errors import InputError
from mmjax.evals import pictures
from mmjax.evals.base import HeadEval, Predictor, Result, check_finite, has_streams
from mmjax.evals.detection import Detections, average_precision, iou
from mmjax.evals.previews import Preview, make_previews
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes(HeadEval):
    """Average precision of a Boxes head, and a sheet of images with their true and detected boxes.

    min_shown_score: the minimum score of drawn boxes. The metrics count boxes of every score.
    num_shown: images on the sheet.
    train: training data for the blind baseline; None: no baseline.
    """

    head: str = "boxes"
    image: str = "image"
    boxes: str = "boxes"
    min_shown_score: float = 0.5
    num_shown: int = 6
    train: data.Dataset | None = None

    def __post_init__(self):
        self.check_streams(self.image, self.boxes)

    def __call__(self, predictor: Predictor) -> Result:
        classes = self.data.streams[self.boxes].classes
        detections, targets, previews = [], [], []
        for batch in self.batches():
            rows = np.flatnonzero(has_streams(batch, self.image, self.boxes))
            outputs, _ = predictor(batch, Identity(), (self.head,))
            predicted = check_finite(self.head, outputs[self.head][rows])
            detections.append(decode_detections(predicted, len(previews)))
            targets.append(true_boxes(batch[self.boxes], rows, len(previews)))
            captions = [""] * len(outputs[self.head])
            all_previews = make_previews(batch[self.image], self.data.streams[self.image], captions)
            previews += [all_previews[row] for row in rows]
        num_images = len(previews)
        if not num_images:
            raise InputError(f"boxes: no example of the data has both {self.image!r} and {self.boxes!r}")
        detections, targets = Detections.concatenate(detections), Detections.concatenate(targets)
        metrics = detection_metrics(detections, targets, classes) | {"num_pictures": float(num_images)}
        if self.train is not None:
            blind = self.blind_detections(self.train, len(classes))
            numbers = [np.full(len(blind.boxes), n) for n in range(num_images)]
            blind = Detections.concatenate([dataclasses.replace(blind, images=each) for each in numbers])
            scores = detection_metrics(blind, targets, classes)
            metrics |= {f"{name}/blind": value for name, value in scores.items()}
        draw = partial(self._draw, detections, targets, previews, classes, metrics["mAP50"])
        return Result(metrics, {"boxes": draw})

    def blind_detections(self, train: data.Dataset, num_classes: int, steps: int = 12) -> Detections:
        """Boxes for image 0 from the training data alone: for each class, its mean size at each grid point.

        The score is the fraction of training images with a box of the class that has an IoU of .5 with it.
        """
        parts, num_images = [], 0
        for batch in data.epoch(train, self.batch_size):
            rows = np.flatnonzero(has_streams(batch, self.boxes))
            parts.append(true_boxes(batch[self.boxes], rows, num_images))
            num_images += len(rows)
        train_boxes, blind = Detections.concatenate(parts), []
        centres = (np.mgrid[:steps, :steps].reshape(2, -1).T + 0.5) / steps
        for index in range(num_classes):
            of_class = train_boxes.of_class(index)
            if not len(of_class.boxes):
                continue
            size = np.broadcast_to(of_class.boxes[:, 2:].mean(0), centres.shape)
            boxes = np.concatenate([centres, size], axis=1)
            overlaps = iou(boxes, of_class.boxes) >= 0.5
            scores = np.array([len(np.unique(of_class.images[row])) for row in overlaps]) / num_images
            blind.append(Detections(np.zeros(len(boxes), int), boxes, np.full(len(boxes), index), scores))
        return Detections.concatenate(blind)

    def _draw(
        self, detections: Detections, targets: Detections, previews: list[Preview], classes, score, path
    ) -> None:
        """Draws a sheet of a few random images."""
        chosen = np.sort(np.random.default_rng(0).permutation(len(previews))[: self.num_shown])
        shown = detections.scores >= self.min_shown_score
        rows = [np.flatnonzero(shown & (detections.images == n)) for n in chosen]
        pictures.box_sheet(
            path,
            title="Detected and true objects",
            subtitle=f"mAP at IoU .5: {score:.2f}   ·   white: true boxes; in colour: detections of score "
            f"{self.min_shown_score} and more   ·   random images",
            images=[previews[n] for n in chosen],
            targets=[targets.boxes[targets.images == n] for n in chosen],
            detections=[(detections.boxes[each], detections.classes[each]) for each in rows],
            classes=classes,
        )


def decode_detections(predicted: np.ndarray, first_image: int) -> Detections:
    """The boxes that a Boxes head predicts, with their most likely classes; row 0 is image `first_image`.

    predicted: "B Q 4+classes+1": the box, and logits whose last class means no object.
    """
    logits = predicted[..., 4:] - predicted[..., 4:].max(-1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    objects = probabilities[..., :-1]
    images = np.repeat(first_image + np.arange(len(predicted)), predicted.shape[1])
    boxes = predicted[..., :4].reshape(-1, 4)
    return Detections(images, boxes, objects.argmax(-1).ravel(), objects.max(-1).ravel())


def true_boxes(stream: BoxTargets, rows: np.ndarray, first_image: int) -> Detections:
    """The boxes in `rows` "N" of a batch; the first of these rows is image number `first_image`."""
    mask = np.asarray(stream.mask)[rows]
    images = (first_image + np.arange(len(rows)))[:, None] * np.ones_like(mask, int)
    boxes, classes = np.asarray(stream.boxes)[rows][mask], np.asarray(stream.classes)[rows][mask]
    return Detections(images[mask], boxes, classes, np.ones(len(boxes)))


def detection_metrics(
    detections: Detections, targets: Detections, classes: tuple[str, ...]
) -> dict[str, float]:
    """Average precision of each class that `targets` has, and its mean."""
    precisions = {name: average_precision(detections, targets, n) for n, name in enumerate(classes)}
    precisions = {f"AP50/{name}": value for name, value in precisions.items() if not np.isnan(value)}
    return {"mAP50": float(np.mean(list(precisions.values())))} | precisions
