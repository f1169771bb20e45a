"""Fusion of one feature vector a modality."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded, is_present
from mmjax.fusion.base import Fusion
from mmjax.fusion.join import any_present, check_names, check_trunk, mlp_residual, project, select_streams
from mmjax.layers import LayerNorm, Transformer, mean_pool


class FeatureFusion(Fusion):
    """Abstract: every modality is a vector f_m(x_m), and `combine` makes one of them.

    f_m is a linear map of every position to `width`, with `mlp_width` a residual MLP of that hidden width
    behind it, and then the mean over positions (Zaheer et al. 2017, Deep Sets, eq. 2).
    reader: a stream whose every position is a modality's vector of its own, without the mean; the result
      replaces it. None: all are means, and the result is the one position of a new stream `into`.
    trunk: what then lets positions read each other; None: only a norm.
    """

    width: int
    mlp_width: int = 0
    reader: str | None = None
    into: str = "fused"
    trunk: Transformer | None = None
    dropout: float = 0.0
    dtype: str = "float32"

    def made_streams(self) -> tuple[str, ...]:
        return () if self.reader else (self.into,)

    def is_causal_for(self, stream: str) -> bool:
        return stream != self.reader or self.trunk is None or self.trunk.causal

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        check_names(self, self.streams, {"reader": (self.reader,)}, None if self.reader else self.into)
        streams = select_streams(self, self.streams, encoded)
        vectors, there = self.vectors(streams, train)
        x = self.combine(vectors, there)
        mask = streams[self.reader].mask if self.reader else any_present(streams)
        if self.trunk is None:
            x = LayerNorm(dtype=self.dtype, name="norm")(x)
        else:
            check_trunk(self, self.trunk.width, self.width)
            x = self.trunk(x, mask, train)
        return encoded | {self.reader or self.into: Encoded(x, mask)}

    def vectors(
        self, streams: dict[str, Encoded], train: bool
    ) -> tuple[Float[jax.Array, "B L S {self.width}"], Bool[jax.Array, "B L S"]]:
        """f_m(x_m) of each of S streams, zero where it is not there, and where it is."""
        length = streams[self.reader].mask.shape[1] if self.reader else 1
        vectors, there = [], []
        for stream, value in streams.items():
            x, mask = project(value.embeddings, self.width, f"{stream}_in", self.dtype), value.mask
            if self.mlp_width:
                x = mlp_residual(
                    stream, x, train, mlp_width=self.mlp_width, dropout=self.dropout, dtype=self.dtype
                )
            if stream != self.reader:
                x = mean_pool(x, mask)[:, None].astype(self.dtype)
                mask = is_present(value)[:, None]
            x = jnp.where(mask[..., None], x, 0)
            vectors.append(jnp.broadcast_to(x, (x.shape[0], length, self.width)))
            there.append(jnp.broadcast_to(mask, (x.shape[0], length)))
        return jnp.stack(vectors, axis=2), jnp.stack(there, axis=2)

    def combine(
        self, vectors: Float[jax.Array, "B L S D"], there: Bool[jax.Array, "B L S"]
    ) -> Float[jax.Array, "B L D"]:
        """One vector of S, of which some may not be there; those are zero."""
        raise NotImplementedError
