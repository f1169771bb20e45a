"""Rows of mmjax.heads."""

from collections.abc import Callable

import flax.linen as nn

from catalog.row import D, Row, encoded, normal, rows_read, tokens_read
from mmjax import heads
from mmjax.testing import VOCAB


def head(name: str, module: Callable[[], nn.Module], **more) -> Row:
    defaults = {"read": rows_read, "bf16": "inputs"}
    return Row(f"heads.{name}", lambda dtype: module(), lambda: (encoded(),), **defaults | more)


HEADS = [
    head(
        "Boxes",
        lambda: heads.Boxes("image", num_classes=3, grid=(2, 3), tokens=(1, 4), mlp_width=32, depth=1),
    ),
    head("PooledEmbedding", lambda: heads.PooledEmbedding("text", dim=8)),
    head("PooledEmbedding.first", lambda: heads.PooledEmbedding("text", dim=8, pooling="first")),
    head("Classes", lambda: heads.Classes("text", num_classes=3, pooling="mean")),
    head("MatchingLogit", lambda: heads.MatchingLogit("text")),
    head(
        "TokenLogits",
        lambda: heads.TokenLogits("text"),
        settings={"table": normal(VOCAB, D)},
        read=tokens_read,
    ),
]
