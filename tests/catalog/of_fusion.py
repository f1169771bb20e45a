"""Rows of mmjax.fusion."""

from collections.abc import Callable

from catalog.row import D, Row, encoded, normal, trunk
from mmjax import fusion
from mmjax.batch import Encoded
from mmjax.testing import TOLERANCE

PAIR = ("text", "image")
SIZES = {"width": D, "num_heads": 4, "mlp_width": 32}


def streams() -> tuple[dict[str, Encoded]]:
    """Two streams of different widths, and a stream that no fusion reads."""
    return ({"text": encoded(), "image": encoded(5, 2 * D, seed=1), "other": encoded(seed=2)},)


def with_hidden_states() -> tuple[dict[str, Encoded]]:
    """The same streams, with one hidden state each."""
    encodings = streams()[0]
    return (
        {
            name: value.replace(hidden_states=(normal(*value.embeddings.shape, seed=7),))
            for name, value in encodings.items()
        },
    )


def row(name: str, make: Callable[[str], object], inputs: Callable = streams) -> Row:
    return Row(f"fusion.{name}", make, inputs, tolerance=TOLERANCE["fp32_stack"])


def feature_row(kind: type, name: str = "", **fields) -> Row:
    row_name = kind.__name__ + (name and f".{name}")
    return row(row_name, lambda dtype: kind(PAIR, D, dtype=dtype, **fields))


def attention_row(kind: type, name: str = "", inputs: Callable = streams, **fields) -> Row:
    row_name = kind.__name__ + (name and f".{name}")
    return row(row_name, lambda dtype: kind(PAIR, dtype=dtype, **SIZES | fields), inputs)


def decoder(dtype: str, streams: tuple[str, ...] = PAIR, **changes) -> fusion.CrossAttentionDecoder:
    causal = trunk(dtype, causal=True, cross_attention=True, **changes)
    return fusion.CrossAttentionDecoder(streams, "text", causal)


FUSION = [
    Row("fusion.Late", lambda t: fusion.Late(PAIR), streams, bf16=None),
    attention_row(fusion.CoAttention, depth=1),
    feature_row(fusion.Mean, mlp_width=8),
    row(
        "Mean.updated_stream", lambda t: fusion.Mean(PAIR, D, updated_stream="text", trunk=trunk(t), dtype=t)
    ),
    feature_row(fusion.ConcatMlp),
    feature_row(fusion.ConcatMlp, "updated_stream", updated_stream="text", depth=2, hidden_width=8),
    feature_row(fusion.GatedSum),
    feature_row(fusion.GatedSum, "updated_stream", updated_stream="text", gates="channel"),
    feature_row(fusion.ChannelCross),
    feature_row(fusion.ChannelCross, "updated_stream", updated_stream="text", rank=4),
    row("SingleStream", lambda t: fusion.SingleStream(PAIR, trunk(t))),
    attention_row(fusion.Bottleneck, depth=2),
    attention_row(fusion.Bottleneck, "updated_stream", depth=3, first_fusion_layer=1, updated_stream="text"),
    attention_row(fusion.Resampler, depth=1, num_latents=3),
    attention_row(fusion.Resampler, "updated_stream", depth=1, num_latents=3, updated_stream="text"),
    attention_row(fusion.QFormer, depth=2, num_queries=3),
    attention_row(
        fusion.QFormer, "updated_stream", depth=2, num_queries=3, updated_stream="text", causal=True
    ),
    row("Prefix", lambda t: fusion.Prefix(PAIR, "text", trunk(t))),
    row("CrossAttentionDecoder", lambda t: decoder(t)),
    row("CrossAttentionDecoder.three", lambda t: decoder(t, streams=("text", "image", "other"), norm="post")),
    row("CoCaDecoder", lambda t: fusion.CoCaDecoder(PAIR, "text", 2, num_heads=4, mlp_width=32, dtype=t)),
    attention_row(fusion.Hierarchical, inputs=with_hidden_states, depth=2),
    attention_row(
        fusion.Hierarchical, "updated_stream", inputs=with_hidden_states, depth=2, updated_stream="text"
    ),
    attention_row(fusion.LateVoting, num_classes=3),
    attention_row(fusion.LateVoting, "confidence", num_classes=3, vote="confidence", query_stream="text"),
    attention_row(fusion.LateVoting, "product", num_classes=3, vote="product", query_stream="text"),
]
