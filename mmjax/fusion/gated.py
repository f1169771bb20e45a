"""A weighted sum of the modalities."""

from typing import Literal

import einops
import jax.numpy as jnp

from mmjax.fusion.features import FeatureFusion
from mmjax.fusion.join import over_present
from mmjax.layers import Einsum


class GatedSum(FeatureFusion):
    """``h = sum_m alpha_m f_m(x_m)``: Arevalo et al. 2017, Gated Multimodal Units.

    The weights are a softmax over the modalities that are there (of two, the paper's sigmoid gate), computed
    from all f_m(x_m) side by side: for every example, and position of the reader, one weight a modality, or
    with gates="channel", as in the paper, one for each of its channels. f_m has no tanh, as it has in the
    paper. Other fields as `FeatureFusion`'s.
    """

    gates: Literal["example", "channel"] = "example"

    def combine(self, vectors, there):
        """``"B L S D" -> "B L D"``."""
        weights = self.weights(vectors, there).astype(vectors.dtype)
        return (vectors * weights).sum(2)

    def weights(self, vectors, there):
        """``"B L S D"`` or ``"B L S 1"``, float32: over what is there they sum to one."""
        side_by_side = einops.rearrange(vectors, "B L S D -> B L (S D)")
        num, width = vectors.shape[2:]
        if self.gates == "example":
            equation, shape, axes = "B L D, D S -> B L S", (num,), ("embed", None)
        else:
            equation, shape, axes = "B L D, D M S -> B L M S", (width, num), ("patch", "embed", None)
        logits = Einsum(equation, shape=(num * width, *shape), axes=axes, dtype=self.dtype, name="gates")(
            side_by_side
        )
        logits = logits[:, :, None] if self.gates == "example" else logits
        log_weights = over_present(logits, jnp.broadcast_to(there[:, :, None], logits.shape))
        return jnp.swapaxes(jnp.exp(log_weights), 2, 3)
