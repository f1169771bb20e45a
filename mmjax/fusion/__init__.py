"""{stream: Encoded} -> {stream: Encoded}."""

from mmjax.fusion.co_attention import CoAttention
from mmjax.fusion.late import Late

__all__ = ["CoAttention", "Late"]
