"""The mean of the modalities."""

import jax.numpy as jnp

from mmjax.fusion.features import FeatureFusion


class Mean(FeatureFusion):
    """The mean of f_m(x_m) over the modalities that are there. Fields as `FeatureFusion`'s."""

    def combine(self, vectors, there):
        """``"B L S D" -> "B L D"``."""
        num = jnp.maximum(there.sum(-1), 1).astype(vectors.dtype)
        return vectors.sum(2) / num[..., None]
