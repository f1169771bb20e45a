"""Learn a few codes that say what a patch looks like."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int

from mmjax.heads import Quantised
from mmjax.objectives.base import Outputs, masked_mean
from mmjax.objectives.masked_patches import image_patches, reconstruction_loss
from mmjax.views import Identity, View


class VectorQuantised(nn.Module):
    """Reconstruction, codebook and commitment losses (van den Oord et al. 2017, VQ-VAE, eq. 3).

    head: a PatchQuantiser head. stream: of the Image that it reads, unmasked. patch: its (height, width).
    Codes that no patch is nearest to never learn. The metrics `used`, the share of the codes that occur in
    the batch, and `perplexity`, the number of codes in even use that would say as much, tell of it.
    """

    head: str
    stream: str
    patch: tuple[int, int]
    commitment: float = 0.25
    view: View = Identity()
    weight: float = 1.0

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """The picture itself."""
        return (self.stream,)

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        quantised: Quantised = outputs.predictions[self.head]
        patches = image_patches(outputs.batch[self.stream].pixels, self.patch)
        mask = quantised.mask
        counted = jnp.broadcast_to(mask[..., None], (*mask.shape, patches.shape[-1]))
        loss, metrics = reconstruction_loss(self.head, quantised.patches, patches, counted)
        loss += code_distance(quantised.found, quantised.nearest, mask, self.commitment)
        return loss, metrics | usage(quantised.codes, mask, quantised.num_codes)


def code_distance(
    found: Float[jax.Array, "B L E"],
    nearest: Float[jax.Array, "B L E"],
    mask: Bool[jax.Array, "B L"],
    commitment: float,
) -> Float32[jax.Array, ""]:
    """Mean of ``|sg(found) - nearest|^2 + commitment |found - sg(nearest)|^2`` over positions."""
    held_found, held_nearest = jax.lax.stop_gradient(found), jax.lax.stop_gradient(nearest)
    codebook = jnp.square(held_found - nearest).sum(-1)
    return masked_mean(codebook + commitment * jnp.square(found - held_nearest).sum(-1), mask)


def usage(codes: Int[jax.Array, "B L"], mask: Bool[jax.Array, "B L"], num_codes: int) -> dict[str, jax.Array]:
    """{"used": share of the codes that occur, "perplexity": exp(entropy of their shares)}."""
    counts = (jax.nn.one_hot(codes, num_codes) * mask[..., None]).sum((0, 1))
    share = counts / jnp.maximum(counts.sum(), 1)
    entropy = -(share * jnp.log(jnp.where(share > 0, share, 1))).sum()
    return {"used": (counts > 0).astype(jnp.float32).mean(), "perplexity": jnp.exp(entropy)}
