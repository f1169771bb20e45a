"""Does the second text follow the first?"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.objectives.base import Outputs, masked_mean
from mmjax.views import View


class NextSentence(nn.Module):
    """Two-way cross-entropy (Devlin et al. 2019, section 3.1, task 2).

    head: a Classes head of two classes, 1 = follows. view: one with targets `is_next` and `valid`, as SentencePairs.
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
        logits, label = outputs.predictions[self.head], outputs.targets["is_next"].astype(jnp.int32)
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), label[:, None], axis=-1)[:, 0]
        right = (logits.argmax(-1) == label).astype(jnp.float32)
        valid = outputs.targets["valid"]
        return masked_mean(loss, valid), {"accuracy": masked_mean(right, valid)}
