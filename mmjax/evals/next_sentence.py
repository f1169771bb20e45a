"""Does the model know which sentence follows?

accuracy, accuracy/low, /high     of pairs, half of them with a second sentence from elsewhere
accuracy/majority                 always the more common answer
"""

import dataclasses

import numpy as np

from mmjax.errors import InputError
from mmjax.evals import baseline
from mmjax.evals.base import Eval, Predictor, Result, accuracy_with_interval, check_finite
from mmjax.views import SentencePairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextSentence(Eval):
    """Accuracy of a Classes head of two classes (1 = follows) on the view that it was trained on.

    Partners come from the same batch of the data in order: often of the same document, so neither topic nor
    style gives every mismatch away.
    """

    view: SentencePairs
    head: str = "follows"

    def __post_init__(self):
        self.check_streams(self.view.first, self.view.second)

    def required_heads(self) -> tuple[str, ...]:
        return (self.head,)

    def __call__(self, predictor: Predictor) -> Result:
        said, true = [], []
        for number, batch in enumerate(self.batches()):
            outputs, targets = predictor(batch, self.view, (self.head,), seed=number)
            logits = check_finite(self.head, outputs[self.head][targets["valid"]])
            said.append(logits.argmax(axis=-1))
            true.append(np.asarray(targets["is_next"])[targets["valid"]])
        said, true = np.concatenate(said), np.concatenate(true).astype(np.int64)
        if not len(true):
            raise InputError(
                f"next sentence: no example has both {self.view.first!r} and {self.view.second!r}"
            )
        mean, low, high = accuracy_with_interval(said == true)
        scores = {"accuracy": mean, "accuracy/low": low, "accuracy/high": high}
        return Result(scores | {"accuracy/majority": baseline.majority(true), "num_pairs": float(len(true))})
