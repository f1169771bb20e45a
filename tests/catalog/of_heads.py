"""Rows of mmjax.heads."""

from collections.abc import Callable

import flax.linen as nn

from catalog.row import B, D, L, Row, encoded, normal, rows_read, tokens_read
from mmjax import heads
from mmjax.testing import VOCAB


def head(
    name: str, module: Callable[[], nn.Module], inputs: Callable[[], tuple] = lambda: (encoded(),), **more
) -> Row:
    defaults = {"read": rows_read, "bf16": "inputs"}
    return Row(f"heads.{name}", lambda dtype: module(), inputs, **defaults | more)


HEADS = [
    head("PooledEmbedding", lambda: heads.PooledEmbedding("text", dim=8)),
    head("PooledEmbedding.first", lambda: heads.PooledEmbedding("text", dim=8, pooling="first")),
    head(
        "PooledEmbedding.depth",
        lambda: heads.PooledEmbedding("text", dim=8, depth=1, use_bias=True),
        inputs=lambda: (encoded().replace(lower=(normal(B, L, D, seed=3), normal(B, L, D, seed=4))),),
    ),
    head("Classes", lambda: heads.Classes("text", num_classes=3, pooling="mean")),
    head("Votes", lambda: heads.Votes("votes"), read=tokens_read),
    head("Votes.example", lambda: heads.Votes("votes", each="example")),
    head("MatchingLogit", lambda: heads.MatchingLogit("text")),
    head(
        "TokenLogits",
        lambda: heads.TokenLogits("text"),
        settings={"table": normal(VOCAB, D)},
        read=tokens_read,
    ),
]
