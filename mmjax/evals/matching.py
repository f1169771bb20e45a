"""Can the model tell a true pair from the most confusing wrong one of the batch?

accuracy, accuracy/low, /high     a third true pairs, two thirds hard negatives
accuracy/majority                 always the more common answer, which is "wrong pair"
balanced_accuracy                 mean of the accuracy on true and on wrong pairs; guessing gives one half
"""

import dataclasses

import numpy as np

from mmjax.errors import InputError
from mmjax.evals import baseline
from mmjax.evals.base import Eval, Predictor, Result, accuracy_with_interval, check_finite
from mmjax.views import HardNegatives


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matching(Eval):
    """Accuracy of a MatchingLogit head. A larger batch has harder negatives: compare equal ones."""

    view: HardNegatives
    head: str = "matches"

    def __post_init__(self):
        self.check_streams(self.view.first, self.view.second)

    def required_heads(self) -> tuple[str, ...]:
        return (self.head, *self.view.compared_heads())

    def __call__(self, predictor: Predictor) -> Result:
        said, true = [], []
        for number, batch in enumerate(self.batches()):
            outputs, targets = predictor(batch, self.view, (self.head,), seed=number)
            logits = check_finite(self.head, outputs[self.head][targets["valid"]])
            said.append(logits > 0)
            true.append(np.asarray(targets["matches"])[targets["valid"]])
        said, true = np.concatenate(said), np.concatenate(true)
        if not len(true):
            raise InputError(f"matching: no example has both {self.view.first!r} and {self.view.second!r}")
        right = said == true
        mean, low, high = accuracy_with_interval(right)
        balanced = np.mean([right[true == kind].mean() for kind in np.unique(true)])
        scores = {
            "accuracy": mean,
            "accuracy/low": low,
            "accuracy/high": high,
            "balanced_accuracy": float(balanced),
        }
        return Result(scores | {"accuracy/majority": baseline.majority(true), "num_pairs": float(len(true))})
