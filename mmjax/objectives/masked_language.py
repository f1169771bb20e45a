"""Masked language modelling."""

import dataclasses

from mmjax.objectives.base import (
    Metrics,
    OneHeadObjective,
    Outputs,
    masked_accuracy,
    masked_cross_entropy,
)
from mmjax.objectives.means import Mean, count
from mmjax.views import View


class MaskedLanguage(OneHeadObjective):
    """Cross-entropy of the original tokens at masked positions (Devlin et al. 2019, section 3.1).

    head: a TokenLogits head. view: one with the targets `tokens` and `masked`, such as MaskTokens.
    """

    view: View = dataclasses.field(kw_only=True)

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        logits = outputs.predictions[self.head]
        tokens, masked = outputs.target("tokens"), outputs.target("masked")
        loss = masked_cross_entropy(logits, tokens, masked)
        return Mean(loss, count(masked)), {
            "accuracy": Mean(masked_accuracy(logits, tokens, masked), count(masked))
        }
