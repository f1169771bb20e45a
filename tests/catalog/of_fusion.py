"""Rows of mmjax.fusion."""

from collections.abc import Callable

from catalog.row import D, Row, encoded, normal, trunk
from mmjax import fusion
from mmjax.batch import Encoded
from mmjax.testing import TOLERANCE

PAIR = ("text", "image")
SIZES = {"width": D, "num_heads": 4, "mlp_width": 32}


def streams() -> tuple[dict[str, Encoded]]:
    """Two streams of different widths, and one that fusion is not asked to read."""
    return ({"text": encoded(), "image": encoded(5, 2 * D, seed=1), "other": encoded(seed=2)},)


def with_hidden_states() -> tuple[dict[str, Encoded]]:
    """The same, with a state below the last."""
    found = streams()[0]
    return (
        {
            name: value.replace(hidden_states=(normal(*value.embeddings.shape, seed=7),))
            for name, value in found.items()
        },
    )


def row(name: str, make: Callable[[str], object], inputs: Callable = streams, **more) -> Row:
    return Row(f"fusion.{name}", make, inputs, **{"tolerance": TOLERANCE["fp32_stack"]} | more)


def feature(kind: type, name: str = "", **fields) -> Row:
    full = kind.__name__ + (name and f".{name}")
    return row(full, lambda dtype: kind(PAIR, D, dtype=dtype, **fields))


def model(kind: type, name: str = "", inputs: Callable = streams, **fields) -> Row:
    full = kind.__name__ + (name and f".{name}")
    return row(full, lambda dtype: kind(PAIR, dtype=dtype, **SIZES | fields), inputs)


FUSION = [
    Row("fusion.Late", lambda t: fusion.Late(PAIR), streams, bf16=None),
    model(fusion.CoAttention, depth=1),
    feature(fusion.Mean, mlp_width=8),
    row("Mean.reader", lambda t: fusion.Mean(PAIR, D, reader="text", trunk=trunk(t), dtype=t)),
    feature(fusion.ConcatMlp),
    feature(fusion.ConcatMlp, "reader", reader="text", depth=2, hidden_width=8),
    feature(fusion.GatedSum),
    feature(fusion.GatedSum, "reader", reader="text", gates="channel"),
    feature(fusion.ChannelCross),
    feature(fusion.ChannelCross, "reader", reader="text", rank=4),
    row("SingleStream", lambda t: fusion.SingleStream(PAIR, trunk(t))),
    model(fusion.Bottleneck, depth=2),
    model(fusion.Bottleneck, "reader", depth=3, first_mixing=1, reader="text"),
    model(fusion.Resampler, depth=1, num_latents=3),
    model(fusion.Resampler, "reader", depth=1, num_latents=3, reader="text"),
    model(fusion.QFormer, depth=2, num_queries=3),
    model(fusion.QFormer, "reader", depth=2, num_queries=3, reader="text", causal=True),
    row("Prefix", lambda t: fusion.Prefix(PAIR, "text", trunk(t))),
    model(fusion.Hierarchical, inputs=with_hidden_states, depth=2),
    model(fusion.Hierarchical, "reader", inputs=with_hidden_states, depth=2, reader="text"),
    model(fusion.LateVoting, num_classes=3),
    model(fusion.LateVoting, "confidence", num_classes=3, vote="confidence", reader="text"),
    model(fusion.LateVoting, "product", num_classes=3, vote="product", reader="text"),
]
