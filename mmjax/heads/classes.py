"""Class logits of an example."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.heads.base import Head
from mmjax.heads.pooling import pool
from mmjax.layers import Einsum
from mmjax.ranges import Size


class Classes(Head):
    """Class logits of the pooled stream after a tanh layer (BERT's pooler)."""

    num_classes: Size
    pooling: Literal["mean", "first"] = "first"
    after: Literal["encoder", "fusion"] = dataclasses.field(default="fusion", kw_only=True)

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B classes"]:
        x = pool(encoded, self.pooling)
        width = x.shape[-1]
        x = jnp.tanh(
            Einsum("B D, D M -> B M", shape=(width, width), axes=("patch", "embed"), name="pooler")(x)
        )
        return Einsum(
            "B D, D C -> B C", shape=(width, self.num_classes), axes=("embed", "classes"), name="linear"
        )(x)
