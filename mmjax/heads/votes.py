"""The predictions of a decision-level fusion."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from mmjax.batch import Encoded
from mmjax.heads.base import Head
from mmjax.sharding import shard


class Votes(Head):
    """Returns a stream of log-probabilities, such as `fusion.LateVoting` adds, as logits.

    per: "position" returns all positions, "B L V"; "example" returns the first position, "B C".
    """

    stream: str = "votes"
    per: Literal["position", "example"] = "position"
    after: Literal["encoder", "fusion"] = dataclasses.field(default="fusion", kw_only=True)

    def __call__(self, encoded: Encoded, table: jax.Array | None = None) -> Float32[jax.Array, "B ..."]:
        logits = encoded.embeddings.astype(jnp.float32)
        if self.per == "example":
            return logits[:, 0]
        return shard(logits, "act_batch", "act_length", "act_vocab")
