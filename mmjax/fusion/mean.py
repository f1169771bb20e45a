"""The mean of the modalities."""

import jax.numpy as jnp

from mmjax.fusion.features import FeatureFusion


class Mean(FeatureFusion):
    """The mean of f_m(x_m) over the present modalities. Fields: see `FeatureFusion`."""

    def combine(self, vectors, mask):
        num = jnp.maximum(mask.sum(-1), 1).astype(vectors.dtype)
        return vectors.sum(2) / num[..., None]
