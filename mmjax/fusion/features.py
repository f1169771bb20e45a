"""Fusion of one feature vector per modality."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded, is_present
from mmjax.errors import InputError
from mmjax.fusion import ops
from mmjax.fusion.base import SingleResultFusion
from mmjax.layers import LayerNorm, Transformer, mean_pool
from mmjax.ranges import Decay, Dtype, Size, SizeOrZero


class FeatureFusion(SingleResultFusion):
    """Abstract: maps each modality to a vector f_m(x_m); `combine` maps these vectors to one.

    f_m projects every position to `width`, applies a residual MLP of hidden width `mlp_width` if that is not
    0, and takes the mean over positions (Zaheer et al. 2017, Deep Sets, eq. 2).

    updated_stream: this stream is not averaged: each of its positions is combined with the means of the
      others. None: all streams are averaged, and the result has one position.
    trunk: transforms the combined sequence. None: a LayerNorm only.
    """

    width: Size
    mlp_width: SizeOrZero = 0
    trunk: Transformer | None = None
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    def is_causal_for(self, stream: str) -> bool:
        return stream != self.updated_stream or self.trunk is None or self.trunk.causal

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        streams = ops.select_streams(self, encoded)
        x = self.combine(*self.project_streams(streams, train))
        mask = streams[self.updated_stream].mask if self.updated_stream else ops.any_present(streams)
        if self.trunk is None:
            x = LayerNorm(dtype=self.dtype, name="norm")(x)
        elif self.trunk.width != self.width:
            raise InputError(
                f"{type(self).__name__} has width {self.width} and a trunk of width {self.trunk.width}: "
                "expected them equal"
            )
        else:
            x = self.trunk(x, mask, train)
        return encoded | {self.result_stream: Encoded(x, mask)}

    def project_streams(
        self, streams: dict[str, Encoded], train: bool
    ) -> tuple[Float[jax.Array, "B L S {self.width}"], Bool[jax.Array, "B L S"]]:
        """Returns f_m(x_m) of each of S streams, zero where the mask is False, and that mask."""
        length = streams[self.updated_stream].mask.shape[1] if self.updated_stream else 1
        vectors, masks = [], []
        for stream, value in streams.items():
            x, mask = ops.project(value.embeddings, self.width, f"{stream}_in", self.dtype), value.mask
            if self.mlp_width:
                x = ops.mlp_residual(
                    stream, x, train, mlp_width=self.mlp_width, dropout=self.dropout, dtype=self.dtype
                )
            if stream != self.updated_stream:
                x = mean_pool(x, mask)[:, None].astype(self.dtype)
                mask = is_present(value)[:, None]
            x = jnp.where(mask[..., None], x, 0)
            vectors.append(jnp.broadcast_to(x, (x.shape[0], length, self.width)))
            masks.append(jnp.broadcast_to(mask, (x.shape[0], length)))
        return jnp.stack(vectors, axis=2), jnp.stack(masks, axis=2)

    def combine(
        self, vectors: Float[jax.Array, "B L S D"], mask: Bool[jax.Array, "B L S"]
    ) -> Float[jax.Array, "B L D"]:
        """Combines the vectors of S modalities into one. Vectors are zero where the mask is False."""
        raise NotImplementedError
