"""Read the words that a view has hidden."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int

from mmjax.objectives.base import Outputs, masked_mean
from mmjax.views import View


class MaskedLanguage(nn.Module):
    """Cross-entropy at hidden positions (Devlin et al. 2019, section 3.1).

    head: a TokenLogits head. view: one with targets `tokens` and `masked`, such as MaskTokens.
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
        logits, targets = outputs.predictions[self.head], outputs.targets
        loss = masked_cross_entropy(logits, targets["tokens"], targets["masked"])
        right = (logits.argmax(-1) == targets["tokens"]).astype(jnp.float32)
        return loss, {"accuracy": masked_mean(right, targets["masked"])}


def masked_cross_entropy(
    logits: Float[jax.Array, "B L V"], tokens: Int[jax.Array, "B L"], masked: Bool[jax.Array, "B L"]
) -> Float32[jax.Array, ""]:
    """Mean of -log p(token) over masked positions."""
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return masked_mean(-jnp.take_along_axis(log_probability, tokens[..., None], axis=-1)[..., 0], masked)
