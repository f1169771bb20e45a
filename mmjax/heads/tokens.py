"""Token logits of every position."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.heads.base import Head
from mmjax.layers import Einsum, LayerNorm
from mmjax.layers.mlp import ACTIVATIONS
from mmjax.ranges import Activation, Positive
from mmjax.sharding import param_axes, shard


class TokenLogits(Head):
    """Dense, GELU, norm, the transposed token table and a bias (BERT's MLM head).

    transform: without it, dense, GELU, norm and bias are left out, as in GPT.
    activation: a key of `mlp.ACTIVATIONS`.
    """

    after: Literal["encoder", "fusion"] = dataclasses.field(default="fusion", kw_only=True)
    transform: bool = dataclasses.field(default=True, kw_only=True)
    activation: Activation = dataclasses.field(default="gelu_tanh", kw_only=True)
    epsilon: Positive = dataclasses.field(default=1e-6, kw_only=True)

    @nn.compact
    def __call__(
        self, encoded: Encoded, table: Float32[jax.Array, "V D"] | None = None
    ) -> Float32[jax.Array, "B L V"]:
        if table is None:
            raise ValueError(f"TokenLogits reads stream {self.stream!r}, whose encoder has no token table")
        x = encoded.embeddings
        vocab, width = table.shape
        if self.transform:
            x = Einsum(
                "B L D, D M -> B L M", shape=(x.shape[-1], width), axes=("patch", "embed"),
                dtype=x.dtype.name, name="dense",
            )(x)  # fmt: skip
            x = LayerNorm(self.epsilon, name="norm")(ACTIVATIONS[self.activation](x))
        logits = jnp.einsum("BLD,VD->BLV", x, table, preferred_element_type=jnp.float32)
        if self.transform:
            bias = self.param("bias", param_axes(nn.initializers.zeros, "vocab"), (vocab,))
            logits = logits + bias[None, None]
        return shard(logits, "act_batch", "act_length", "act_vocab")
