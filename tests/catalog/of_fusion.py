"""Rows of mmjax.fusion."""

from catalog.row import D, Row, encoded
from mmjax import fusion
from mmjax.batch import Encoded
from mmjax.testing import TOLERANCE


def streams() -> tuple[dict[str, Encoded]]:
    """Two streams of different widths, and one that fusion is not asked to read."""
    return ({"text": encoded(), "image": encoded(5, 2 * D, seed=1), "other": encoded(seed=2)},)


def co_attention(dtype: str) -> fusion.CoAttention:
    return fusion.CoAttention(
        streams=("text", "image"), depth=1, width=D, num_heads=4, mlp_width=32, dtype=dtype
    )


FUSION = [
    Row("fusion.Late", lambda t: fusion.Late(("text", "image")), streams, bf16=None),
    Row("fusion.CoAttention", co_attention, streams, tolerance=TOLERANCE["fp32_stack"]),
]
