"""Encoded -> prediction."""

from mmjax.heads.adversarial import RealOrGenerated
from mmjax.heads.classes import Classes
from mmjax.heads.embedding import PooledEmbedding
from mmjax.heads.matching import MatchingLogit
from mmjax.heads.tokens import TokenLogits

__all__ = ["Classes", "MatchingLogit", "PooledEmbedding", "RealOrGenerated", "TokenLogits"]
