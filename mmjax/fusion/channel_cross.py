"""Channels of all modalities multiplied with each other."""

import einops

from mmjax.fusion.features import FeatureFusion
from mmjax.layers import Einsum
from mmjax.sharding import shard


class ChannelCross(FeatureFusion):
    """Deep & cross layers, ``x_(l+1) = x_0 * (W_l x_l + b_l) + x_l``: Wang et al. 2021, DCN-V2, eq. 1.

    x_0 is all f_m(x_m) side by side; each layer raises by one the degree of the products of channels. With
    `rank`, W_l is a product of two matrices of that rank (eq. 2). A linear map to `width` follows. Other
    fields as `FeatureFusion`'s.
    """

    depth: int = 2
    rank: int | None = None

    def combine(self, vectors, there):
        """``"B L S D" -> "B L D"``."""
        start = x = einops.rearrange(vectors, "B L S D -> B L (S D)")
        channels = start.shape[-1]
        for layer in range(self.depth):
            y = x
            if self.rank is not None:
                y = Einsum(
                    "B L D, D F -> B L F", shape=(channels, self.rank), axes=("embed", "mlp"),
                    use_bias=False, dtype=self.dtype, name=f"down_{layer}",
                )(y)  # fmt: skip
                y = shard(y, "act_batch", "act_length", "act_mlp")
            axes = ("patch" if self.rank is None else "mlp", "embed")
            y = Einsum(
                "B L D, D M -> B L M", shape=(y.shape[-1], channels), axes=axes, dtype=self.dtype,
                name=f"cross_{layer}",
            )(y)  # fmt: skip
            x = start * y + x
        return Einsum(
            "B L D, D M -> B L M", shape=(channels, self.width), axes=("patch", "embed"), dtype=self.dtype,
            name="out",
        )(x)  # fmt: skip
