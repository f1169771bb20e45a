"""Whether streams belong to the same example."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.heads.base import Head
from mmjax.heads.classes import Classes


class MatchingLogit(Head):
    """One logit per example, of a fused stream that has read the other (ALBEF's image-text matching)."""

    pooling: Literal["mean", "first"] = "first"
    after: Literal["encoder", "fusion"] = dataclasses.field(default="fusion", kw_only=True)

    @nn.compact
    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, " B"]:
        return Classes(self.stream, num_classes=1, pooling=self.pooling, name="classes")(encoded)[:, 0]
