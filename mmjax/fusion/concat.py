"""An MLP on the concatenated modalities."""

import einops
import jax.numpy as jnp

from mmjax.fusion.features import FeatureFusion
from mmjax.layers import ACTIVATIONS, Einsum
from mmjax.ranges import Depth, Size
from mmjax.sharding import shard


class ConcatMlp(FeatureFusion):
    """An MLP on the concatenation of all f_m(x_m) and of one flag per modality, 1 where it is present.

    A missing modality is zero (Ngiam et al. 2011 train bimodal autoencoders with such zeros). Other fields:
    see `FeatureFusion`.

    depth: the number of hidden layers of `hidden_width`; 0 is one linear map.
    """

    depth: Depth = 1
    hidden_width: Size = 256

    def combine(self, vectors, mask):
        x = einops.rearrange(vectors, "B L S D -> B L (S D)")
        x = jnp.concatenate([x, mask.astype(x.dtype)], axis=-1)
        for layer in range(self.depth):
            x = Einsum(
                "B L D, D F -> B L F", shape=(x.shape[-1], self.hidden_width),
                axes=("patch" if layer == 0 else "embed", "mlp"), dtype=self.dtype, name=f"hidden_{layer}",
            )(x)  # fmt: skip
            x = shard(ACTIVATIONS["gelu_tanh"](x), "act_batch", "act_length", "act_mlp")
        return Einsum(
            "B L F, F D -> B L D", shape=(x.shape[-1], self.width),
            axes=("mlp" if self.depth else "patch", "embed"), dtype=self.dtype, name="out",
        )(x)  # fmt: skip
