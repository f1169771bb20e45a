"""Products of channels across modalities."""

import einops

from mmjax.fusion.features import FeatureFusion
from mmjax.layers import Einsum
from mmjax.ranges import Depth, Size
from mmjax.sharding import shard


class ChannelCross(FeatureFusion):
    """Deep & cross layers, `x_(l+1) = x_0 * (W_l x_l + b_l) + x_l`: Wang et al. 2021, DCN-V2, eq. 1.

    x_0 is the concatenation of all f_m(x_m). Each layer raises the degree of the products of channels by one.
    A linear map to `width` follows. Other fields: see `FeatureFusion`.

    rank: each W_l is a product of two matrices of this rank (eq. 2). None: W_l is a full matrix.
    """

    depth: Depth = 2
    rank: Size | None = None

    def combine(self, vectors, mask):
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
