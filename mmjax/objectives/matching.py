"""Binary classification of matching and mismatched pairs, after fusion."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.objectives.base import Metrics, OneHeadObjective, Outputs, masked_mean
from mmjax.objectives.means import Mean, count
from mmjax.views import View


class Matching(OneHeadObjective):
    """Binary cross-entropy over true pairs and hard negatives (Li et al. 2021, ALBEF, section 3.2).

    head: a MatchingLogit head. view: one with the targets `matches` and `valid`, such as HardNegatives.
    """

    view: View = dataclasses.field(kw_only=True)

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        logit = outputs.predictions[self.head]
        matches, valid = outputs.target("matches"), outputs.target("valid")
        loss = -jax.nn.log_sigmoid(jnp.where(matches, logit, -logit))
        correct = ((logit > 0) == matches).astype(jnp.float32)
        # Without a negative there is nothing to tell apart: the accuracy of always "match" would be 1.
        num = jnp.where((valid & ~matches).any(), count(valid), 0.0)
        return Mean(masked_mean(loss, valid), num), {"accuracy": Mean(masked_mean(correct, valid), num)}
