"""Classification, into one class per example or several, given each subset of the streams.

Classification:
accuracy, /low, /high      with a 95 % bootstrap interval
accuracy/majority          always the most common class of the training labels, or of these without `train`
f1                         mean over the classes that occur as truth or prediction of the harmonic mean of
                           precision and recall (macro F1)
top5_accuracy              with more than five classes: the true class is among the five of the highest scores
auroc                      mean over the classes that occur of the area under the ROC curve against the others
calibration_error          |accuracy - confidence| in 15 bins of confidence (ECE)
recall/rooster             of one class
audio/accuracy, ...        with `subsets`, given only these streams: audio, image, audio+image

MultiLabel:
mean_average_precision     mean over the classes of the area under the precision-recall curve
/chance                    of a random ranking: the fraction of positive labels
average_precision/rooster  of one class
auroc                      mean over the classes of the area under the ROC curve
f1                         over all classes together, where a logit above 0 predicts the class (micro F1)
audio/f1, ...              with `subsets`

class_scores.py defines them; they equal scikit-learn's. A metric that the data do not define is left out: the
AUROC where the data have one class, the average precision of a class that no example has.
"""

import dataclasses
from functools import partial

import numpy as np

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import base, baseline, class_scores, pictures
from mmjax.evals.base import DrawPicture, HeadEval, Predictor, Result, has_streams, interval_metrics
from mmjax.evals.once import once
from mmjax.evals.subsets import keep_only, subset_name, subsets
from mmjax.ranges import Count
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelEval(HeadEval):
    """The base of evaluations that compare a Classes head with labels.

    labels: the stream of labels.
    streams: those that the head reads. Examples that lack one of them are not counted.
    subsets: evaluate with each non-empty subset of `streams`, the others missing.
    """

    labels: str
    streams: tuple[str, ...]
    subsets: bool = False

    def __post_init__(self):
        self.check_streams(*self.streams, self.labels)
        self.check_no_subsets_of("Set `subsets=True`: it takes those of `streams`")

    def predict(self, predictor: Predictor) -> tuple[dict[tuple, np.ndarray], np.ndarray, np.ndarray]:
        """Returns ({subset: logits "N classes"}, label values, label masks); the last two "N ..."."""
        measured = subsets(self.streams)[1:] if self.subsets else [self.streams]
        logits = {subset: [] for subset in measured}
        values, masks = [], []
        for batch in self.batches():
            rows = has_streams(batch, *self.streams, self.labels)
            values.append(np.asarray(batch[self.labels].values)[rows])
            masks.append(np.asarray(batch[self.labels].mask)[rows])
            for subset, parts in logits.items():
                inputs = keep_only(batch, self.streams, subset)
                outputs, _ = predictor(inputs, Identity(), (self.head,))
                parts.append(base.check_finite(self.head, outputs[self.head][rows]))
        concatenated = {subset: np.concatenate(parts) for subset, parts in logits.items()}
        return concatenated, np.concatenate(values), np.concatenate(masks)

    def prefix(self, subset: tuple[str, ...]) -> str:
        """The prefix of the names of a subset's metrics."""
        return f"{subset_name(subset)}/" if self.subsets else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(LabelEval):
    """Accuracy of a Classes head on a stream of Labels.

    classes: names; None: those of the labels' transform, or else the classes' numbers.
    train: training data for the majority; None: the evaluated data, which make the majority look better.
    """

    labels: str = "label"
    classes: tuple[str, ...] | None = None
    train: data.Dataset | None = None
    train_limit: Count | None = 20_000

    def __post_init__(self):
        super().__post_init__()
        if not self.streams:
            raise InputError("Classification expects `streams`, those that its head reads, found none")

    def __call__(self, predictor: Predictor) -> Result:
        logits, labels, _ = self.predict(predictor)
        if not len(labels):
            raise InputError(
                f"classification: no example of the data has all of {[*self.streams, self.labels]}"
            )
        num_classes = logits[self.streams].shape[1]
        names = self.class_names(num_classes)
        if labels.max() >= num_classes:
            raise InputError(
                f"classification: found the class {labels.max()}, and the head {self.head!r} has "
                f"{num_classes} classes"
            )
        metrics: dict[str, float] = {}
        drawn: dict[str, DrawPicture] = {}
        for subset, values in logits.items():
            predicted, prefix = values.argmax(axis=1), self.prefix(subset)
            counts = class_scores.confusion_counts(labels, predicted, num_classes)
            accuracy = interval_metrics(f"{prefix}accuracy", predicted == labels)
            scores = {"f1": class_scores.macro_f1(counts)} | probability_metrics(values, labels)
            metrics |= accuracy | {f"{prefix}{name}": value for name, value in scores.items()}
            metrics |= {
                f"{prefix}recall/{names[n]}": float(counts[n, n] / counts[n].sum())
                for n in np.flatnonzero(counts.sum(axis=1))
            }
            mean, low, high = accuracy.values()
            drawn[f"{subset_name(subset)}_confusion"] = partial(
                pictures.confusion,
                title=f"Classes, given {' and '.join(subset)}",
                subtitle=f"{len(labels)} examples, {mean:.1%} right [{low:.1%}, {high:.1%}]",
                classes=names,
                counts=counts,
            )
        majority = once(self, "majority", lambda: self.majority(labels))
        return Result(metrics | {"accuracy/majority": majority}, drawn)

    def class_names(self, num_classes: int) -> tuple[str, ...]:
        """A name for each class."""
        names = self.classes or self.data.streams[self.labels].classes
        if names is None:
            return tuple(str(number) for number in range(num_classes))
        if len(names) != num_classes:
            raise InputError(
                f"classification: the head {self.head!r} has {num_classes} classes, and `classes` names "
                f"{len(names)}: {list(names)}"
            )
        return tuple(names)

    def majority(self, labels: np.ndarray) -> float:
        """Accuracy on `labels` "N" of always predicting the most common class of `train`."""
        if self.train is None:
            return baseline.majority_accuracy(labels)
        streams = [batch[self.labels] for batch in self.batches_of(self.train, self.train_limit)]
        train_labels = np.concatenate([np.asarray(each.values)[np.asarray(each.mask)] for each in streams])
        if not len(train_labels):
            raise InputError(f"classification: no example of `train` has {self.labels!r}")
        return baseline.majority_accuracy(labels, train_labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiLabel(LabelEval):
    """Average precision of a Classes head on a stream of MultiLabels, each class on its own."""

    labels: str = "labels"

    def __call__(self, predictor: Predictor) -> Result:
        logits, labels, known = self.predict(predictor)
        names = self.data.streams[self.labels].classes
        metrics: dict[str, float] = {}
        for subset, values in logits.items():
            if values.shape != labels.shape:
                raise InputError(
                    f"multi-label: the head {self.head!r} has {values.shape[1]} classes, and the data "
                    f"{len(names)}: {list(names)}"
                )
            scores = self.scores(values, labels, known, names)
            metrics |= {f"{self.prefix(subset)}{name}": value for name, value in scores.items()}
        return Result(metrics)

    def scores(
        self, logits: np.ndarray, labels: np.ndarray, known: np.ndarray, names: tuple[str, ...]
    ) -> dict[str, float]:
        """Metrics over the classes with a positive label; the AUROC over those with a negative label too.

        Args:
          logits, labels, known: "N classes"; `known` is whether the example's label for the class is known.
        """
        classes = np.flatnonzero((labels & known).any(axis=0))
        if not len(classes):
            raise InputError(f"multi-label: no example of the data has a class and all of {[*self.streams]}")
        columns = [(logits[known[:, n], n], labels[known[:, n], n]) for n in classes]
        precisions = [class_scores.average_precision(*column) for column in columns]
        areas = [area for area in (class_scores.auroc(*column) for column in columns) if area is not None]
        predicted = (logits > 0) & known
        metrics = {"auroc": float(np.mean(areas))} if areas else {}
        return (
            metrics
            | {
                "mean_average_precision": float(np.mean(precisions)),
                "mean_average_precision/chance": float(np.mean([positive.mean() for _, positive in columns])),
                "f1": float(
                    2 * (predicted & labels).sum() / max(1, predicted.sum() + (labels & known).sum())
                ),
            }
            | {f"average_precision/{names[n]}": value for n, value in zip(classes, precisions, strict=True)}
        )


def probability_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-5 accuracy, AUROC and calibration error of logits "N classes"; those that `labels` "N" define."""
    probabilities = class_scores.softmax(logits)
    scores = {
        "top5_accuracy": class_scores.top_k_accuracy(logits, labels),
        "auroc": class_scores.macro_auroc(probabilities, labels),
        "calibration_error": class_scores.expected_calibration_error(probabilities, labels),
    }
    return {name: value for name, value in scores.items() if value is not None}
