"""Do these two belong together, once they have read each other?"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.objectives.base import Outputs, masked_mean
from mmjax.views import View


class Matching(nn.Module):
    """Binary cross-entropy over true pairs and hard negatives (Li et al. 2021, ALBEF, section 3.2).

    head: a MatchingLogit head. view: one with targets `matches` and `valid`, such as HardNegatives.
    """

    head: str
    view: View
    weight: float = 1.0

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """None: the view gives them."""
        return ()

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        logit, matches = outputs.predictions[self.head], outputs.targets["matches"]
        loss = -jax.nn.log_sigmoid(jnp.where(matches, logit, -logit))
        right = ((logit > 0) == matches).astype(jnp.float32)
        valid = outputs.targets["valid"]
        return masked_mean(loss, valid), {"accuracy": masked_mean(right, valid)}
