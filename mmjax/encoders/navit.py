"""An encoder of images of any resolution and aspect ratio."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.batch import Encoded, Patches
from mmjax.encoders.base import Encoder
from mmjax.encoders.packing import Packing
from mmjax.encoders.projection import project
from mmjax.layers import Transformer
from mmjax.ranges import Dtype, NonNegative
from mmjax.sharding import gather_table, param_axes


class NaViT(Encoder):
    """Linear patches, row and column embeddings, and a trunk (NaViT, Dehghani et al. 2023, section 2.1).

    Factorised positions, a vector for the row plus one for the column, also fit grids that were not trained
    on. Each table has one entry for each patch of an example, the most rows or columns that it can have.

    packing: how examples share a row of the trunk's batch; None: one example per row.
    """

    trunk: Transformer
    packing: Packing | None = None
    position_init_std: NonNegative = 1.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, image: Patches, train: bool = False) -> Encoded:
        length = image.patches.shape[1]
        x = project(jnp.where(image.mask[..., None], image.patches, 0), self.trunk.width, self.dtype)
        init = param_axes(nn.initializers.normal(self.position_init_std), None, "embed")
        for name, index in (("rows", image.rows), ("columns", image.columns)):
            table = gather_table(self.param(name, init, (length, self.trunk.width)), None)
            x = x + jnp.take(table, index, axis=0, mode="clip").astype(x.dtype)
        if self.packing is None:
            return self.trunk.encode(x, image.mask, train)
        return self.packing.encode(self.trunk, x, image.mask, train)
