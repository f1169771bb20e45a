"""Position embeddings."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from mmjax.ranges import NonNegative, Positive, SizeOrZero, Vocab
from mmjax.sharding import param_axes


class LearnedPositions(nn.Module):
    """Adds a learned vector to each position.

    length: the largest number of positions.
    first: the row of the first position (RoBERTa's tables begin at row 2).
    init_std: the standard deviation at initialisation. BERT's 0.02 fits token embeddings of that scale. For
      inputs of unit scale it is too small: models of short sequences then learn the order late or never.
    """

    length: Vocab
    init_std: NonNegative = 1.0
    first: SizeOrZero = 0

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B L D"]) -> Float[jax.Array, "B L D"]:
        if x.shape[1] > self.length - self.first:
            raise ValueError(
                f"the input has {x.shape[1]} positions, and the table of positions has "
                f"{self.length - self.first}"
            )
        init = param_axes(nn.initializers.normal(self.init_std), "positions", "embed")
        table = self.param("table", init, (self.length, x.shape[-1]))
        return x + table[None, self.first : self.first + x.shape[1]].astype(x.dtype)


class SinusoidalPositions(nn.Module):
    """Adds fixed sines and cosines (Vaswani et al. 2017, section 3.5, with the sines before the cosines)."""

    max_period: Positive = 10_000.0

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B L D"]) -> Float[jax.Array, "B L D"]:
        return x + sinusoids(x.shape[1], x.shape[2], self.max_period)[None].astype(x.dtype)


def sinusoids(length: int, width: int, max_period: float = 10_000.0) -> Float32[jax.Array, "L D"]:
    """sin(position / max_period^(2 i / width)) for i < width / 2, followed by the cosines."""
    half = width // 2
    frequency = np.exp(-np.log(max_period) * np.arange(half) / half)
    angle = np.arange(length)[:, None] * frequency[None, :]
    return jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=1), jnp.float32)
