"""Scores of predicted classes, in NumPy: equal to scikit-learn's where it has them.

"N" examples, "C" classes. A score that the data do not define is None, and is left out of the metrics.
"""

import numpy as np

NUM_BINS = 15  # of the expected calibration error


def confusion_counts(targets: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of examples by class, int "target predicted", of class numbers "N"."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (targets, predicted), 1)
    return counts


def macro_f1(counts: np.ndarray) -> float:
    """Mean of `2 right / (true + predicted)` over the classes that occur as truth or prediction.

    As scikit-learn's `f1_score(average="macro")`: a class that is predicted and never true counts 0.

    Args:
      counts: "target predicted".
    """
    total = counts.sum(axis=1) + counts.sum(axis=0)
    return float(np.mean(2 * np.diag(counts)[total > 0] / total[total > 0]))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities "N C" of logits "N C", in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def top_k_accuracy(scores: np.ndarray, targets: np.ndarray, k: int = 5) -> float | None:
    """Fraction of examples whose true class has one of the `k` highest scores; None for `k` classes or fewer.

    A class with the score of the true class ranks before it: equal scores for all classes are never right.

    Args:
      scores: "N C".
      targets: classes, int "N".
    """
    if scores.shape[1] <= k:
        return None
    true = scores[np.arange(len(targets)), targets]
    return float(((scores >= true[:, None]).sum(axis=1) <= k).mean())


def auroc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the receiver operating characteristic; None unless both positive and negative labels occur.

    It is the probability that a positive example has a higher score than a negative one, ties counting half
    (Mann & Whitney 1947).

    Args:
      scores: "N".
      labels: bool "N".
    """
    positive, negative = scores[labels], np.sort(scores[~labels])
    if not len(positive) or not len(negative):
        return None
    below = np.searchsorted(negative, positive, side="left")
    not_above = np.searchsorted(negative, positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))


def macro_auroc(scores: np.ndarray, targets: np.ndarray) -> float | None:
    """Mean over the classes that occur of the AUROC of each class against the others; None for one class.

    scikit-learn's `roc_auc_score(multi_class="ovr", average="macro")` is equal, and refuses data in which a
    class does not occur. Of two classes, both have the same AUROC.

    Args:
      scores: probabilities "N C".
      targets: classes, int "N".
    """
    areas = [auroc(scores[:, n], targets == n) for n in np.unique(targets)]
    defined = [area for area in areas if area is not None]
    return float(np.mean(defined)) if defined else None


def expected_calibration_error(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean over examples of |accuracy - confidence| of their bin, of 15 of equal width (Guo et al. 2017).

    The confidence is the highest probability. A bin has its upper limit and not its lower one.

    Args:
      probabilities: "N C".
      targets: classes, int "N".
    """
    confidence = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == targets
    limits = np.linspace(0, 1, NUM_BINS + 1)
    bins = np.clip(np.searchsorted(limits, confidence, side="left") - 1, 0, NUM_BINS - 1)
    gaps = np.bincount(bins, hits - confidence, NUM_BINS)
    return float(np.abs(gaps).sum() / len(targets))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The sum over thresholds of (increase of recall) * precision, without interpolation.

    As scikit-learn's `average_precision_score`; at least one label is positive.

    Args:
      scores: "N". Equal scores pass a threshold together, so that their order has no influence.
      labels: bool "N".
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each group of equal scores
    hits = np.cumsum(labels[order])[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / hits[-1])
