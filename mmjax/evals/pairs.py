"""Binary classification of pairs that a view samples: matching, and next-sentence prediction.

accuracy, accuracy/low, /high     with a 95 % bootstrap interval
accuracy/majority                 always the more common answer
balanced_accuracy                 of Matching: mean of the accuracies on true and on wrong pairs (chance: .5);
                                  left out where the data have only one of both kinds
"""

import dataclasses

import numpy as np

from mmjax.errors import InputError
from mmjax.evals import baseline
from mmjax.evals.base import HeadEval, Predictor, Result, check_finite, interval_metrics
from mmjax.views import HardNegatives, SentencePairs, View


def _predict_pairs(
    evaluation: HeadEval, predictor: Predictor, view: View, target: str
) -> tuple[np.ndarray, np.ndarray]:
    """Logits "N ..." and targets "N" of the valid pairs. Batch n is sampled with seed n."""
    logits, targets = [], []
    head = evaluation.head
    for seed, batch in enumerate(evaluation.batches()):
        outputs, view_targets = predictor(batch, view, (head,), seed=seed)
        valid = view_targets["valid"]
        logits.append(check_finite(head, outputs[head][valid]))
        targets.append(np.asarray(view_targets[target])[valid])
    return np.concatenate(logits), np.concatenate(targets)


def _baseline_metrics(targets: np.ndarray) -> dict[str, float]:
    return {"accuracy/majority": baseline.majority_accuracy(targets), "num_pairs": float(len(targets))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matching(HeadEval):
    """Accuracy of a MatchingLogit head; a third of the pairs are true, the others hard negatives.

    Compare only equal batch sizes: a larger batch has harder negatives.
    """

    view: HardNegatives
    head: str = "matches"

    def __post_init__(self):
        self.check_streams(self.view.first, self.view.second)

    def required_heads(self) -> tuple[str, ...]:
        return (self.head, *self.view.compared_heads())

    def __call__(self, predictor: Predictor) -> Result:
        logits, targets = _predict_pairs(self, predictor, self.view, "matches")
        if not len(targets):
            raise InputError(f"matching: no example has both {self.view.first!r} and {self.view.second!r}")
        hits = (logits > 0) == targets
        metrics = interval_metrics("accuracy", hits)
        kinds = np.unique(targets)
        if len(kinds) == 2:
            metrics["balanced_accuracy"] = float(np.mean([hits[targets == kind].mean() for kind in kinds]))
        return Result(metrics | _baseline_metrics(targets))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextSentence(HeadEval):
    """Accuracy of a Classes head of two classes (1 = follows), half of whose pairs are mismatched.

    Mismatched sentences come from the same batch of the data in order, hence often from the same document:
    topic and style do not always reveal them.
    """

    view: SentencePairs
    head: str = "follows"

    def __post_init__(self):
        self.check_streams(self.view.first, self.view.second)

    def __call__(self, predictor: Predictor) -> Result:
        logits, targets = _predict_pairs(self, predictor, self.view, "is_next")
        if not len(targets):
            raise InputError(
                f"next sentence: no example has both {self.view.first!r} and {self.view.second!r}"
            )
        hits = logits.argmax(axis=-1) == targets
        return Result(interval_metrics("accuracy", hits) | _baseline_metrics(targets))
