"""Position embeddings."""

import flax.linen as nn
import jax
from jaxtyping import Float

from mmjax.sharding import param_axes


class LearnedPositions(nn.Module):
    """Adds a learned vector to each position.

    length: the largest number of positions.
    init_std: the standard deviation at initialisation. BERT's 0.02 fits token embeddings of that scale. For
      inputs of unit scale it is too small: models of short sequences then learn the order late or never.
    """

    length: int
    init_std: float = 1.0

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B L D"]) -> Float[jax.Array, "B L D"]:
        if x.shape[1] > self.length:
            raise ValueError(
                f"the input has {x.shape[1]} positions, and the table of positions has {self.length}"
            )
        init = param_axes(nn.initializers.normal(self.init_std), "positions", "embed")
        table = self.param("table", init, (self.length, x.shape[-1]))
        return x + table[None, : x.shape[1]].astype(x.dtype)
