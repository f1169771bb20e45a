"""Are the objects found, and called by their names?

mAP50                             mean over the classes of the average precision at IoU .5
AP50/<class>                      of each
mAP50/blind, AP50/<class>/blind   of one answer for every picture: where objects of the training data are,
                                  when `train` is given
"""

import dataclasses
from functools import partial

import numpy as np

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import pictures
from mmjax.evals.base import Eval, Predictor, Result, check_finite, has_streams
from mmjax.evals.cards import Preview, cards
from mmjax.evals.precision import Detections, average_precision, iou
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes(Eval):
    """Average precision of a Boxes head, and a sheet of pictures with what it found."""

    head: str = "boxes"
    image: str = "image"
    boxes: str = "boxes"
    shown_score: float = 0.5  # what is drawn; every claim counts
    num_shown: int = 6
    train: data.Dataset | None = None  # for the blind answer; None: no such baseline

    def __post_init__(self):
        self.check_streams(self.image, self.boxes)

    def required_heads(self) -> tuple[str, ...]:
        return (self.head,)

    def __call__(self, predictor: Predictor) -> Result:
        names = self.data.streams[self.boxes].classes
        claims, truths, shown, num = [], [], [], 0
        for batch in self.batches():
            rows = np.flatnonzero(has_streams(batch, self.image, self.boxes))
            outputs, _ = predictor(batch, Identity(), (self.head,))
            predicted = check_finite(self.head, outputs[self.head][rows])
            claims.append(claimed(predicted, num))
            truths.append(marked(batch[self.boxes], rows, num))
            captions = [""] * len(outputs[self.head])
            drawn = cards(batch[self.image], self.data.streams[self.image], captions)
            shown += [drawn[row] for row in rows]
            num += len(rows)
        if not num:
            raise InputError(f"boxes: no example of the data has both {self.image!r} and {self.boxes!r}")
        found, true = together(claims), together(truths)
        metrics = scores(found, true, names) | {"num_pictures": float(num)}
        if self.train is not None:
            blind = repeated(self.blind(self.train, len(names)), num)
            metrics |= {f"{name}/blind": value for name, value in scores(blind, true, names).items()}
        return Result(metrics, {"boxes": partial(self.draw, found, true, shown, names, metrics)})

    def blind(self, train: data.Dataset, num_classes: int, steps: int = 12) -> Detections:
        """Each class's mean size on a grid, scored by how often a picture has such an object there."""
        parts, num = [], 0
        for batch in data.epoch(train, self.batch_size):
            rows = np.flatnonzero(has_streams(batch, self.boxes))
            parts.append(marked(batch[self.boxes], rows, num))
            num += len(rows)
        known, answers = together(parts), []
        middle = (np.mgrid[:steps, :steps].reshape(2, -1).T + 0.5) / steps
        for kind in range(num_classes):
            of_kind = known.of(kind)
            if not len(of_kind.boxes):
                continue
            size = np.broadcast_to(of_kind.boxes[:, 2:].mean(0), middle.shape)
            boxes = np.concatenate([middle, size], axis=1)
            there = iou(boxes, of_kind.boxes) >= 0.5
            often = np.array([len(np.unique(of_kind.picture[row])) for row in there]) / num
            answers.append(Detections(np.zeros(len(boxes), int), boxes, np.full(len(boxes), kind), often))
        return together(answers)

    def draw(self, found: Detections, true: Detections, shown: list[Preview], names, metrics, path) -> None:
        """A sheet of a few pictures."""
        chosen = np.sort(np.random.default_rng(0).permutation(len(shown))[: self.num_shown])
        pictures.box_sheet(
            path,
            title="What the model finds, and what is marked",
            subtitle=f"mAP at IoU .5: {metrics['mAP50']:.2f}   ·   white: marked; in colour: found, of score "
            f"{self.shown_score} and more   ·   pictures drawn by lot",
            cards=[shown[n] for n in chosen],
            marked=[true.boxes[true.picture == n] for n in chosen],
            found=[
                (found.boxes[rows], found.classes[rows])
                for rows in ((found.picture == n) & (found.scores >= self.shown_score) for n in chosen)
            ],
            classes=names,
        )


def claimed(predicted: np.ndarray, first: int) -> Detections:
    """Each query's likeliest class; pictures are numbered from `first`. predicted: "B Q 4+classes+1"."""
    logits = predicted[..., 4:] - predicted[..., 4:].max(-1, keepdims=True)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    objects = probability[..., :-1]
    picture = np.repeat(first + np.arange(len(predicted)), predicted.shape[1])
    boxes = predicted[..., :4].reshape(-1, 4)
    return Detections(picture, boxes, objects.argmax(-1).ravel(), objects.max(-1).ravel())


def marked(stream, rows: np.ndarray, first: int) -> Detections:
    """The boxes of these rows of a batch's stream."""
    mask = np.asarray(stream.mask)[rows]
    picture = (first + np.arange(len(rows)))[:, None] * np.ones_like(mask, int)
    boxes, classes = np.asarray(stream.boxes)[rows][mask], np.asarray(stream.classes)[rows][mask]
    return Detections(picture[mask], boxes, classes, np.ones(len(boxes)))


def together(parts: list[Detections]) -> Detections:
    fields = [field.name for field in dataclasses.fields(Detections)]
    return Detections(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in fields})


def repeated(answer: Detections, num: int) -> Detections:
    """The same answer for every picture."""
    every = [dataclasses.replace(answer, picture=np.full(len(answer.boxes), n)) for n in range(num)]
    return together(every)


def scores(found: Detections, true: Detections, names: tuple[str, ...]) -> dict[str, float]:
    """Of the classes that are marked somewhere."""
    each = {f"AP50/{name}": average_precision(found, true, kind) for kind, name in enumerate(names)}
    each = {name: value for name, value in each.items() if not np.isnan(value)}
    return {"mAP50": float(np.mean(list(each.values())))} | each
