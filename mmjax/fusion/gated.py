"""A gated sum of the modalities."""

from typing import Literal

import einops
import jax.numpy as jnp

from mmjax.fusion import ops
from mmjax.fusion.features import FeatureFusion
from mmjax.layers import Einsum


class GatedSum(FeatureFusion):
    """`h = sum_m alpha_m f_m(x_m)`: Arevalo et al. 2017, Gated Multimodal Units.

    The weights alpha are a softmax over the present modalities, computed from the concatenation of all
    f_m(x_m). For two modalities this equals the paper's sigmoid gate. Unlike the paper's, f_m has no tanh.
    Other fields: see `FeatureFusion`.

    gates: "example", one weight per modality for each example (and each position of `updated_stream`);
      "channel", one weight per modality and channel, as in the paper.
    """

    gates: Literal["example", "channel"] = "example"

    def combine(self, vectors, mask):
        weights = self.gate_weights(vectors, mask).astype(vectors.dtype)
        return (vectors * weights).sum(2)

    def gate_weights(self, vectors, mask):
        """Weights "B L S D" or "B L S 1", float32, that sum to one over the present modalities S."""
        concatenated = einops.rearrange(vectors, "B L S D -> B L (S D)")
        num, width = vectors.shape[2:]
        if self.gates == "example":
            equation, shape, axes = "B L D, D S -> B L S", (num,), ("embed", None)
        else:
            equation, shape, axes = "B L D, D M S -> B L M S", (width, num), ("patch", "embed", None)
        logits = Einsum(equation, shape=(num * width, *shape), axes=axes, dtype=self.dtype, name="gates")(
            concatenated
        )
        logits = logits[:, :, None] if self.gates == "example" else logits
        log_weights = ops.masked_log_softmax(logits, jnp.broadcast_to(mask[:, :, None], logits.shape))
        return jnp.swapaxes(jnp.exp(log_weights), 2, 3)
