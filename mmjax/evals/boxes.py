"""Object detection.

mAP50                             mean over the classes of the average precision at IoU .5, the area under the
                                  precision-recall curve (PASCAL VOC 2010)
AP50/<class>                      of each class that has a true box
coco/AP, coco/AP50, coco/AP75     as the pycocotools package measures them (coco.py); AP is also the mean over
                                  the IoUs .5, .55, ..., .95
mAP50/blind, AP50/<class>/blind, coco/AP/blind, ...
                                  of the most common training boxes, the same for every image; needs `train`
num_pictures                      images with annotations, also those without objects, where any detection is
                                  wrong
num_boxes                         true boxes, without crowds
"""

import dataclasses
from collections.abc import Iterator
from functools import partial

import numpy as np

from mmjax import data
from mmjax.batch import Batch
from mmjax.data.records import lookup
from mmjax.errors import InputError, excerpt
from mmjax.evals import pictures
from mmjax.evals.base import HeadEval, Predictor, Result, check_finite, has_streams
from mmjax.evals.coco import coco_metrics
from mmjax.evals.detection import Detections, average_precision, iou
from mmjax.evals.once import once
from mmjax.evals.previews import Preview, make_previews
from mmjax.ranges import Fraction, Whole
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes(HeadEval):
    """Average precision of a Boxes head, and a sheet of images with their true and detected boxes.

    crowd: path in the record to a list of flags, one for each box: whether it is a crowd (COCO's "iscrowd")
      or too difficult, so that it is neither right nor wrong to find it. None: no box is.
    min_shown_score: the minimum score of drawn boxes. The metrics count boxes of every score.
    num_shown: images on the sheet.
    train: training data for the blind baseline; None: no baseline.
    """

    head: str = "boxes"
    image: str = "image"
    boxes: str = "boxes"
    crowd: str | None = None
    min_shown_score: Fraction = 0.5
    num_shown: Whole = 6
    train: data.Dataset | None = None

    def __post_init__(self):
        self.check_streams(self.image, self.boxes)

    def __call__(self, predictor: Predictor) -> Result:
        classes = self.data.streams[self.boxes].classes
        detections, targets, previews = [], [], []
        for batch, rows, true in self._annotated(self.data, self.limit):
            outputs, _ = predictor(batch, Identity(), (self.head,))
            predicted = check_finite(self.head, outputs[self.head][rows])
            detections.append(decode_detections(predicted, len(previews)))
            targets.append(dataclasses.replace(true, images=true.images + len(previews)))
            captions = [""] * len(outputs[self.head])
            all_previews = make_previews(batch[self.image], self.data.streams[self.image], captions)
            previews += [all_previews[row] for row in rows]
        num_images = len(previews)
        if not num_images:
            raise InputError(f"boxes: no example of the data has both {self.image!r} and {self.boxes!r}")
        detections, targets = Detections.concatenate(detections), Detections.concatenate(targets)
        metrics = detection_metrics(detections, targets, classes)
        metrics |= {"num_pictures": float(num_images), "num_boxes": float((~targets.is_crowd).sum())}
        if self.train is not None:
            metrics |= once(self, "blind", lambda: self._blind_metrics(targets, num_images, classes))
        draw = partial(self._draw, detections, targets, previews, classes, metrics["mAP50"])
        return Result(metrics, {"boxes": draw})

    def _blind_metrics(
        self, targets: Detections, num_images: int, classes: tuple[str, ...]
    ) -> dict[str, float]:
        """The metrics of `blind_detections` for each of the images."""
        assert self.train is not None
        blind = self.blind_detections(self.train, len(classes))
        numbers = [np.full(len(blind.boxes), n) for n in range(num_images)]
        blind = Detections.concatenate([dataclasses.replace(blind, images=each) for each in numbers])
        scores = detection_metrics(blind, targets, classes)
        return {f"{name}/blind": value for name, value in scores.items()}

    def blind_detections(self, train: data.Dataset, num_classes: int, steps: int = 12) -> Detections:
        """Boxes for image 0 from the training data alone: for each class, its mean size at each grid point.

        The score is the fraction of training images with a box of the class that has an IoU of .5 with it.
        """
        parts, num_images = [], 0
        for _, rows, true in self._annotated(train):
            parts.append(dataclasses.replace(true, images=true.images + num_images))
            num_images += len(rows)
        train_boxes, blind = Detections.concatenate(parts), []
        centres = (np.mgrid[:steps, :steps].reshape(2, -1).T + 0.5) / steps
        for index in range(num_classes):
            of_class = train_boxes.of_class(index)
            of_class = of_class.take(np.flatnonzero(~of_class.is_crowd))
            if not len(of_class.boxes):
                continue
            size = np.broadcast_to(of_class.boxes[:, 2:].mean(0), centres.shape)
            boxes = np.concatenate([centres, size], axis=1)
            overlaps = iou(boxes, of_class.boxes) >= 0.5
            scores = np.array([len(np.unique(of_class.images[row])) for row in overlaps]) / num_images
            blind.append(Detections.of(np.zeros(len(boxes), int), boxes, np.full(len(boxes), index), scores))
        if not blind:
            raise InputError(f"boxes: no example of `train` has a box in {self.boxes!r}")
        return Detections.concatenate(blind)

    def _annotated(
        self, dataset: data.Dataset, limit: int | None = None
    ) -> Iterator[tuple[Batch, np.ndarray, Detections]]:
        """Yields (batch, rows with an image and annotations, the true boxes of these rows).

        Rows come from the records, since a batch does not tell an image without objects from one that nobody
        annotated. In the true boxes, the first of these rows is image 0.
        """
        reader, transform = dataset.source.open(), dataset.streams[self.boxes]
        for number, batch in enumerate(self.batches_of(dataset, limit)):
            rows, parts = [], [Detections.of(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int))]
            for row in np.flatnonzero(has_streams(batch, self.image)).tolist():
                record = reader[number * self.batch_size + row]
                try:
                    boxes, classes = transform.decode(record)
                except data.MissingField:
                    continue
                crowd = self._crowd_flags(record, len(boxes))
                parts.append(Detections.of(np.full(len(boxes), len(rows)), boxes, classes, is_crowd=crowd))
                rows.append(row)
            yield batch, np.asarray(rows, int), Detections.concatenate(parts)

    def _crowd_flags(self, record: data.Record, size: int) -> np.ndarray:
        if self.crowd is None:
            return np.zeros(size, bool)
        flags = np.asarray(lookup(record, self.crowd), bool)
        if flags.shape != (size,):
            raise InputError(
                f"boxes: expected {size} flags in {self.crowd!r} of the record {excerpt(record['__key__'])}, "
                f"one for each box, found {len(flags.reshape(-1))}"
            )
        return flags

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
    return Detections.of(images, boxes, objects.argmax(-1).ravel(), objects.max(-1).ravel())


def detection_metrics(
    detections: Detections, targets: Detections, classes: tuple[str, ...]
) -> dict[str, float]:
    """Average precision of each class that `targets` has, and its means; InputError without targets."""
    if targets.is_crowd.all():
        raise InputError("boxes: expected objects in the data, found only images without any")
    precisions = {name: average_precision(detections, targets, n) for n, name in enumerate(classes)}
    precisions = {f"AP50/{name}": value for name, value in precisions.items() if not np.isnan(value)}
    coco = coco_metrics(detections, targets, len(classes))
    return (
        {"mAP50": float(np.mean(list(precisions.values())))}
        | {f"coco/{name}": value for name, value in coco.items()}
        | precisions
    )
