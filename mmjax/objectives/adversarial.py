"""A discriminator and a generator, each with its own loss, in one sum."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from mmjax.batch import is_present
from mmjax.objectives.base import Outputs, masked_mean
from mmjax.views import Identity, View


class Adversarial(nn.Module):
    """Both players' losses, non-saturating (Goodfellow et al. 2014, eq. 1 and the end of section 3).

    head: a RealOrGenerated head, which sees to it that each loss trains its own player. stream: whose
    examples are real, where they are there. `generator_weight` is the generator's share. Neither loss falls
    for long: where both play equally well they are 2 log 2 and log 2.
    """

    head: str
    stream: str
    weight: float = 1.0
    generator_weight: float = 1.0
    view: View = Identity()

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """The stream whose presence counts."""
        return (self.stream,)

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, valid = outputs.predictions[self.head], is_present(outputs.batch[self.stream])
        discriminator, generator = adversarial(logits, valid)
        right = jnp.stack([logits[:, 0] > 0, logits[:, 1] < 0], axis=1).astype(jnp.float32).mean(1)
        return discriminator + self.generator_weight * generator, {
            "discriminator": discriminator,
            "generator": generator,
            "accuracy": masked_mean(right, valid),
        }


def adversarial(
    logits: Float[jax.Array, "B 3"], valid: Bool[jax.Array, " B"]
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """``-log D(x) - log(1 - D(G(z)))`` and ``-log D(G(z))``, means over valid rows; columns as the head's."""
    real, generated, deceiving = logits.astype(jnp.float32).T
    discriminator = masked_mean(-jax.nn.log_sigmoid(real) - jax.nn.log_sigmoid(-generated), valid)
    return discriminator, masked_mean(-jax.nn.log_sigmoid(deceiving), valid)
