"""Next-sentence prediction."""

import dataclasses

import jax.numpy as jnp

from mmjax.objectives.base import (
    Metrics,
    OneHeadObjective,
    Outputs,
    masked_accuracy,
    masked_cross_entropy,
)
from mmjax.objectives.means import Mean, count
from mmjax.views import View


class NextSentence(OneHeadObjective):
    """Cross-entropy of whether the second text follows the first (Devlin et al. 2019, section 3.1, task 2).

    head: a Classes head of two classes; class 1: it follows. view: one with the targets `is_next` and
    `valid`, such as SentencePairs.
    """

    view: View = dataclasses.field(kw_only=True)

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        logits, valid = outputs.predictions[self.head], outputs.target("valid")
        labels = outputs.target("is_next").astype(jnp.int32)
        loss = masked_cross_entropy(logits, labels, valid)
        return Mean(loss, count(valid)), {
            "accuracy": Mean(masked_accuracy(logits, labels, valid), count(valid))
        }
