"""Is it real, or made up?"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import AdversarialEncoded, Encoded
from mmjax.heads.base import Head
from mmjax.heads.pooling import pool
from mmjax.layers import Einsum


class RealOrGenerated(Head):
    """Three logits an example, high for real: float32 ``"B 3"``, of a stream whose encoder has a generator.

    They are of the example itself, of what was generated beside it, and of the same once more for the
    generator's loss, whose gradient leaves this head's parameters alone as it does the discriminator's.
    """

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B 3"]:
        if not isinstance(encoded, AdversarialEncoded):
            raise ValueError(
                f"RealOrGenerated reads stream {self.stream!r}, whose encoder generates nothing: expected an "
                "encoder such as AdversarialSpectrogram, and a head after='encoder'"
            )
        real = pool(encoded, "mean")
        own = pool(encoded.replace(embeddings=encoded.for_discriminator), "mean")
        others = pool(encoded.replace(embeddings=encoded.for_generator), "mean")
        linear = Einsum(
            "B D, D C -> B C", shape=(real.shape[-1], 1), axes=("embed", "classes"), name="linear"
        )
        logits = [linear(real), linear(own)]
        constant = {"params": jax.lax.stop_gradient(linear.variables["params"])}
        return jnp.concatenate([*logits, linear.clone(parent=None).apply(constant, others)], axis=1)
