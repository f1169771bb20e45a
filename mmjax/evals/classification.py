"""How often is the class right, of which classes, and given which modalities?

accuracy, /low, /high      share of right answers, with a 95 % bootstrap interval
accuracy/majority          always the most common class of the training labels, or without `train` of these
f1                         mean over the classes of the harmonic mean of precision and recall (macro F1)
recall/rooster             share of one class's examples that are called so
audio/accuracy, ...        the same, under `subsets`, with only these streams: audio, image, audio+image

of several labels:
mean_average_precision     mean over the classes of the area under precision by recall
/chance                    the same for a ranking that knows nothing: the share of yes
average_precision/rooster  of one class
f1                         of all answers together, yes being a logit above 0 (micro F1)
audio/f1, ...              the same, under `subsets`
"""

import dataclasses
from functools import partial

import numpy as np

from mmjax import data
from mmjax.batch import Batch
from mmjax.errors import InputError
from mmjax.evals import baseline, pictures
from mmjax.evals.base import (
    DrawPicture,
    Eval,
    Predictor,
    Result,
    accuracy_with_interval,
    check_finite,
    has_streams,
)
from mmjax.evals.subsets import missing, named, subsets
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Eval):
    """Accuracy of a Classes head, against the labels, on examples that have all of `streams`.

    With `subsets`, each subset of them but the empty one is given, the others being missing.
    """

    head: str
    labels: str = "label"  # a stream of Labels
    streams: tuple[str, ...]  # what the head looks at
    subsets: bool = False
    classes: tuple[str, ...] | None = None  # names; None: those of the labels' transform, or else numbers
    train: data.Dataset | None = None  # for the majority; None: the evaluated data, which flatters it
    train_limit: int | None = 20_000

    def __post_init__(self):
        self.check_streams(*self.streams, self.labels)
        self.check_no_subsets_of("Set `subsets=True`: it takes those of `streams`")
        if not self.streams:
            raise InputError("Classification expects the streams that its head looks at, found none")

    def required_heads(self) -> tuple[str, ...]:
        return (self.head,)

    def __call__(self, predictor: Predictor) -> Result:
        answers = {given: [] for given in given_subsets(self)}
        true = []
        for batch in self.batches():
            there = has_streams(batch, *self.streams, self.labels)
            true.append(np.asarray(batch[self.labels].values)[there])
            for given, found in answers.items():
                found.append(check_finite(self.head, logits_given(predictor, batch, self, given)[there]))
        labels = np.concatenate(true)
        if not len(labels):
            raise InputError(
                f"classification: no example of the data has all of {[*self.streams, self.labels]}"
            )
        num_classes = answers[self.streams][0].shape[1]
        names = self.class_names(num_classes)
        if labels.max() >= num_classes:
            raise InputError(
                f"classification: found the class {labels.max()}, and the head {self.head!r} has "
                f"{num_classes} classes"
            )
        metrics: dict[str, float] = {}
        drawn: dict[str, DrawPicture] = {}
        for given, parts in answers.items():
            said = np.concatenate(parts).argmax(axis=1)
            counts = np.zeros((num_classes, num_classes), np.int64)
            np.add.at(counts, (labels, said), 1)
            streams = named(given)
            prefix = f"{streams}/" if self.subsets else ""
            mean, low, high = accuracy_with_interval(said == labels)
            metrics |= {
                f"{prefix}accuracy": mean,
                f"{prefix}accuracy/low": low,
                f"{prefix}accuracy/high": high,
            }
            metrics[f"{prefix}f1"] = macro_f1(counts)
            metrics |= {
                f"{prefix}recall/{names[n]}": float(counts[n, n] / counts[n].sum())
                for n in np.flatnonzero(counts.sum(axis=1))
            }
            drawn[f"{streams}_confusion"] = partial(
                pictures.confusion,
                title=f"Classes, given {' and '.join(given)}",
                subtitle=f"{len(labels)} examples, {mean:.1%} right [{low:.1%}, {high:.1%}]",
                classes=names,
                counts=counts,
            )
        return Result(metrics | {"accuracy/majority": self.majority(labels)}, drawn)

    def class_names(self, num_classes: int) -> tuple[str, ...]:
        """A name for each class."""
        names = self.classes or getattr(self.data.streams[self.labels], "classes", None)
        if names is None:
            return tuple(str(number) for number in range(num_classes))
        if len(names) != num_classes:
            raise InputError(
                f"classification: the head {self.head!r} has {num_classes} classes, and `classes` names "
                f"{len(names)}: {list(names)}"
            )
        return tuple(names)

    def majority(self, labels: np.ndarray) -> float:
        """Accuracy of always giving the most common class of `train`."""
        if self.train is None:
            return baseline.majority(labels)
        known = []
        for batch in data.epoch(self.train, self.batch_size, self.train_limit):
            known.append(np.asarray(batch[self.labels].values)[np.asarray(batch[self.labels].mask)])
        seen = np.concatenate(known)
        if not len(seen):
            raise InputError(f"classification: no example of `train` has {self.labels!r}")
        return float((labels == np.bincount(seen).argmax()).mean())


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiLabel(Eval):
    """Average precision of a Classes head that answers each class by itself.

    With `subsets`, each subset of `streams` but the empty one is given, the others being missing.
    """

    head: str
    labels: str = "labels"  # a stream of MultiLabels
    streams: tuple[str, ...]  # what the head looks at; examples that lack one do not count
    subsets: bool = False

    def __post_init__(self):
        self.check_streams(*self.streams, self.labels)
        self.check_no_subsets_of("Set `subsets=True`: it takes those of `streams`")

    def required_heads(self) -> tuple[str, ...]:
        return (self.head,)

    def __call__(self, predictor: Predictor) -> Result:
        answers = {given: [] for given in given_subsets(self)}
        yes, known = [], []
        for batch in self.batches():
            there = has_streams(batch, *self.streams, self.labels)
            yes.append(np.asarray(batch[self.labels].values)[there])
            known.append(np.asarray(batch[self.labels].mask)[there])
            for given, found in answers.items():
                found.append(check_finite(self.head, logits_given(predictor, batch, self, given)[there]))
        yes, known = np.concatenate(yes), np.concatenate(known)
        names = self.data.streams[self.labels].classes
        metrics: dict[str, float] = {}
        for given, parts in answers.items():
            logits = np.concatenate(parts)
            if logits.shape != yes.shape:
                raise InputError(
                    f"multi-label: the head {self.head!r} has {logits.shape[1]} classes, and the data "
                    f"{len(names)}: {list(names)}"
                )
            prefix = f"{named(given)}/" if self.subsets else ""
            metrics |= {f"{prefix}{name}": x for name, x in self.scores(logits, yes, known, names).items()}
        return Result(metrics)

    def scores(
        self, logits: np.ndarray, yes: np.ndarray, known: np.ndarray, names: tuple[str, ...]
    ) -> dict[str, float]:
        """Of the classes that occur; all three arrays are "N classes"."""
        counted = np.flatnonzero((yes & known).any(axis=0))
        if not len(counted):
            raise InputError(f"multi-label: no example of the data has a class and all of {[*self.streams]}")
        rows = [known[:, n] for n in counted]
        precisions = {
            n: average_precision(logits[row, n], yes[row, n]) for n, row in zip(counted, rows, strict=True)
        }
        chance = [yes[row, n].mean() for n, row in zip(counted, rows, strict=True)]
        said = (logits > 0) & known
        return {
            "mean_average_precision": float(np.mean(list(precisions.values()))),
            "mean_average_precision/chance": float(np.mean(chance)),
            "f1": float(2 * (said & yes).sum() / max(1, said.sum() + (yes & known).sum())),
        } | {f"average_precision/{names[n]}": value for n, value in precisions.items()}


def given_subsets(evaluation: Classification | MultiLabel) -> list[tuple[str, ...]]:
    """The subsets of its streams that are measured, the largest last."""
    return subsets(evaluation.streams)[1:] if evaluation.subsets else [evaluation.streams]


def logits_given(
    predictor: Predictor, batch: Batch, evaluation: Classification | MultiLabel, given: tuple[str, ...]
) -> np.ndarray:
    """The head's logits "B classes" of the clean view, with the evaluation's other streams missing."""
    hidden = {stream: missing(batch[stream]) for stream in evaluation.streams if stream not in given}
    return predictor(batch | hidden, Identity(), (evaluation.head,))[0][evaluation.head]


def macro_f1(counts: np.ndarray) -> float:
    """Mean over the classes that occur of ``2 right / (true + said)``; ``counts`` int "true said"."""
    true, said = counts.sum(axis=1), counts.sum(axis=0)
    return float(np.mean((2 * np.diag(counts) / np.maximum(true + said, 1))[true > 0]))


def average_precision(scores: np.ndarray, yes: np.ndarray) -> float:
    """``sum over thresholds of (recall - recall before) * precision``, without interpolation.

    Examples of equal score stand above a threshold together, so that their order decides nothing.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each group of equals
    hits = np.cumsum(yes[order])[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / hits[-1])
