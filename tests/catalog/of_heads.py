"""Rows of mmjax.heads."""

from collections.abc import Callable

import flax.linen as nn

from catalog.row import B, D, L, Row, encoded, normal, rows_read, tokens_read
from mmjax import heads
from mmjax.batch import Contested
from mmjax.testing import VOCAB


def head(name: str, module: Callable[[], nn.Module], **more) -> Row:
    defaults = {"read": rows_read, "bf16": "inputs"}
    return Row(f"heads.{name}", lambda dtype: module(), lambda: (encoded(),), **defaults | more)


def contested() -> Contested:
    own = encoded()
    return Contested(own.embeddings, own.mask, (), normal(B, L, D, seed=1), normal(B, L, D, seed=2))


HEADS = [
    Row(
        "heads.RealOrGenerated",
        lambda dtype: heads.RealOrGenerated("audio"),
        lambda: (contested(),),
        read=rows_read,
        bf16="inputs",
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
