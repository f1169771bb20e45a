"""The losses of a vector quantiser: patches of an image as codes of a small codebook."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int

from mmjax.heads import Quantised
from mmjax.objectives.base import Metrics, OneHeadObjective, Outputs, masked_mean
from mmjax.objectives.masked_patches import image_patches, reconstruction_loss
from mmjax.objectives.means import Mean, count
from mmjax.ranges import NonNegative, Size


class VectorQuantised(OneHeadObjective):
    """Reconstruction, codebook and commitment losses (van den Oord et al. 2017, VQ-VAE, eq. 3).

    head: a PatchQuantiser head.
    stream: the Image that it reads, unmasked.
    patch: (height, width) of the patches.
    commitment_weight: multiplies the commitment loss.

    Codes that are nearest to no patch get no gradient. Metrics `used`: the fraction of the codes that occur
    in the batch. `perplexity`: the exponential of the entropy of the codes' frequencies.
    """

    stream: str
    patch: tuple[Size, Size]
    commitment_weight: NonNegative = 0.25

    def target_streams(self):
        return (self.stream,)

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        quantised: Quantised = outputs.predictions[self.head]
        patches = image_patches(outputs.batch[self.stream].pixels, self.patch)
        mask = quantised.mask
        value_mask = jnp.broadcast_to(mask[..., None], (*mask.shape, patches.shape[-1]))
        loss, metrics = reconstruction_loss(self.head, quantised.patches, patches, value_mask)
        codebook = codebook_loss(quantised.latents, quantised.code_vectors, mask, self.commitment_weight)
        usage = code_usage(quantised.codes, mask, quantised.num_codes)
        metrics |= {name: Mean(value, count(mask)) for name, value in usage.items()}
        return loss.replace(value=loss.value + codebook), metrics


def codebook_loss(
    latents: Float[jax.Array, "B L E"],
    code_vectors: Float[jax.Array, "B L E"],
    mask: Bool[jax.Array, "B L"],
    commitment_weight: float,
) -> Float32[jax.Array, ""]:
    """Mean of `|sg(latent) - code|^2 + commitment_weight |latent - sg(code)|^2` over the mask."""
    fixed_latents, fixed_codes = jax.lax.stop_gradient(latents), jax.lax.stop_gradient(code_vectors)
    codebook = jnp.square(fixed_latents - code_vectors).sum(-1)
    commitment = jnp.square(latents - fixed_codes).sum(-1)
    return masked_mean(codebook + commitment_weight * commitment, mask)


def code_usage(
    codes: Int[jax.Array, "B L"], mask: Bool[jax.Array, "B L"], num_codes: int
) -> dict[str, jax.Array]:
    """{"used": fraction of the codes that occur, "perplexity": exp(entropy of frequencies)}, scalars."""
    counts = (jax.nn.one_hot(codes, num_codes) * mask[..., None]).sum((0, 1))
    frequency = counts / jnp.maximum(counts.sum(), 1)
    entropy = -(frequency * jnp.log(jnp.where(frequency > 0, frequency, 1))).sum()
    return {"used": (counts > 0).astype(jnp.float32).mean(), "perplexity": jnp.exp(entropy)}
