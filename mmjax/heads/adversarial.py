"""The discriminator's output."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import AdversarialEncoded, Encoded
from mmjax.heads.base import Head
from mmjax.heads.pooling import pool
from mmjax.layers import Einsum


class RealOrGenerated(Head):
    """Three discriminator logits per example, high for real, of a stream whose encoder has a generator.

    Column 0: the real example. Column 1: the generated example, for the discriminator's loss. Column 2: the
    same value for the generator's loss; its gradient reaches neither this head's nor the discriminator's
    parameters.
    """

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B 3"]:
        if not isinstance(encoded, AdversarialEncoded):
            raise ValueError(
                f"RealOrGenerated reads stream {self.stream!r}, whose encoder generates nothing: expected an "
                "encoder such as AdversarialSpectrogram, and a head after='encoder'"
            )
        real = pool(encoded, "mean")
        for_discriminator = pool(encoded.replace(embeddings=encoded.for_discriminator), "mean")
        for_generator = pool(encoded.replace(embeddings=encoded.for_generator), "mean")
        linear = Einsum(
            "B D, D C -> B C", shape=(real.shape[-1], 1), axes=("embed", "classes"), name="linear"
        )
        logits = [linear(real), linear(for_discriminator)]
        constant = {"params": jax.lax.stop_gradient(linear.variables["params"])}
        logits.append(linear.clone(parent=None).apply(constant, for_generator))
        return jnp.concatenate(logits, axis=1)
