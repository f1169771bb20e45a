"""Encoded -> prediction."""

from mmjax.heads.boxes import Boxes
from mmjax.heads.classes import Classes
from mmjax.heads.embedding import PooledEmbedding
from mmjax.heads.matching import MatchingLogit
from mmjax.heads.tokens import TokenLogits

__all__ = ["Boxes", "Classes", "MatchingLogit", "PooledEmbedding", "TokenLogits"]
