"""Encoded -> prediction."""

from mmjax.heads.classes import Classes
from mmjax.heads.embedding import PooledEmbedding
from mmjax.heads.matching import MatchingLogit
from mmjax.heads.positions import FrameLogits, Frames, PositionClasses
from mmjax.heads.tokens import TokenLogits

__all__ = [
    "Classes", "FrameLogits", "Frames", "MatchingLogit", "PooledEmbedding", "PositionClasses", "TokenLogits",
]  # fmt: skip
