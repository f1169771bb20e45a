"""Fusions: let streams read each other, {stream: Encoded} -> {stream: Encoded}."""

from mmjax.fusion.base import Fusion
from mmjax.fusion.bottleneck import Bottleneck
from mmjax.fusion.channel_cross import ChannelCross
from mmjax.fusion.co_attention import CoAttention
from mmjax.fusion.coca_decoder import CoCaDecoder
from mmjax.fusion.concat import ConcatMlp
from mmjax.fusion.decoder import CrossAttentionDecoder
from mmjax.fusion.gated import GatedSum
from mmjax.fusion.hierarchical import Hierarchical
from mmjax.fusion.late import Late
from mmjax.fusion.late_voting import LateVoting
from mmjax.fusion.mean import Mean
from mmjax.fusion.prefix import Prefix
from mmjax.fusion.q_former import QFormer
from mmjax.fusion.resampler import Resampler
from mmjax.fusion.single_stream import SingleStream

__all__ = [
    "Bottleneck", "ChannelCross", "CoAttention", "CoCaDecoder", "ConcatMlp", "CrossAttentionDecoder",
    "Fusion", "GatedSum", "Hierarchical", "Late", "LateVoting", "Mean", "Prefix", "QFormer", "Resampler",
    "SingleStream",
]  # fmt: skip
