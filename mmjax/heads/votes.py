"""What a decision-level fusion has agreed on."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.heads.base import Head
from mmjax.sharding import shard


class Votes(Head):
    """A stream of log-probabilities, such as `fusion.Decision` makes, handed on as logits.

    each: "position", float32 ``"B L V"``; "example", the first position as float32 ``"B C"``.
    """

    stream: str = "votes"
    each: Literal["position", "example"] = "position"
    after: Literal["encoder", "fusion"] = dataclasses.field(default="fusion", kw_only=True)

    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B ..."]:
        logits = encoded.embeddings.astype(jnp.float32)
        if self.each == "example":
            return logits[:, 0]
        return shard(logits, "act_batch", "act_length", "act_vocab")
