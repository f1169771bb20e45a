"""Pictures of any resolution and aspect."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.batch import Encoded, Patches
from mmjax.encoders.base import Encoder
from mmjax.encoders.packing import Packing
from mmjax.layers import Einsum, Transformer
from mmjax.sharding import gather_table, param_axes


class NaViT(Encoder):
    """Patches at native aspect, positions by row and column, trunk (Dehghani et al. 2023, section 2.1).

    Linear patches, then factorised positions: a learned vector of the row and one of the column are added, so
    that a grid never seen is made of rows and columns that were. Both tables have as many entries as an
    example has patches, which is as far as a row or a column can reach. `packing` None leaves every example a
    row of its own.
    """

    trunk: Transformer
    packing: Packing | None = None
    position_scale: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Patches, train: bool = False) -> Encoded:
        """Patches ``"B L features"`` -> Encoded ``"B L D"``."""
        length, features = image.patches.shape[1:]
        x = Einsum(
            "B L P, P D -> B L D",
            shape=(features, self.trunk.width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="linear",
        )(jnp.where(image.mask[..., None], image.patches, 0))
        init = param_axes(nn.initializers.normal(self.position_scale), None, "embed")
        for name, index in (("rows", image.rows), ("columns", image.columns)):
            table = gather_table(self.param(name, init, (length, self.trunk.width)), None)
            x = x + jnp.take(table, index, axis=0, mode="clip").astype(x.dtype)
        if self.packing is None:
            return self.trunk.encode(x, image.mask, train)
        return self.packing.encode(self.trunk, x, image.mask, train)
