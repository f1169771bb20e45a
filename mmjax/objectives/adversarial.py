"""The losses of a generative adversarial network."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from mmjax.batch import is_present
from mmjax.objectives.base import Metrics, OneHeadObjective, Outputs, masked_mean, mean_where
from mmjax.objectives.means import Mean, count
from mmjax.ranges import NonNegative


class Adversarial(OneHeadObjective):
    """The discriminator's loss and the generator's, non-saturating, in one sum (Goodfellow et al. 2014, eq. 1
    and the end of section 3).

    head: a RealOrGenerated head. It routes the gradients: each loss trains only its own network.
    stream: the stream of real examples; rows without it are ignored.
    generator_weight: multiplies the generator's loss.

    Neither loss falls for long: at equilibrium they are 2 log 2 (discriminator) and log 2 (generator).
    """

    stream: str
    generator_weight: NonNegative = 1.0

    def target_streams(self):
        return (self.stream,)

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        logits, valid = outputs.predictions[self.head], is_present(outputs.batch[self.stream])
        discriminator, generator = adversarial_losses(logits, valid)
        correct = jnp.stack([logits[:, 0] > 0, logits[:, 1] < 0], axis=1).astype(jnp.float32).mean(1)
        num = count(valid)
        return Mean(discriminator + self.generator_weight * generator, num), {
            "discriminator": Mean(discriminator, num),
            "generator": Mean(generator, num),
            "accuracy": mean_where(correct, valid),
        }


def adversarial_losses(
    logits: Float[jax.Array, "B 3"], valid: Bool[jax.Array, " B"]
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """(`-log D(x) - log(1 - D(G(z)))`, `-log D(G(z))`), means over valid rows.

    Args:
      logits: of x, of G(z) for the discriminator's loss, and of G(z) for the generator's loss.
    """
    real, generated, generated_for_generator = logits.astype(jnp.float32).T
    discriminator = masked_mean(-jax.nn.log_sigmoid(real) - jax.nn.log_sigmoid(-generated), valid)
    return discriminator, masked_mean(-jax.nn.log_sigmoid(generated_for_generator), valid)
