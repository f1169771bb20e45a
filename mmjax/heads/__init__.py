"""Encoded -> prediction."""

from mmjax.heads.classes import Classes
from mmjax.heads.embedding import PooledEmbedding
from mmjax.heads.matching import MatchingLogit
from mmjax.heads.tokens import TokenLogits
from mmjax.heads.votes import Votes

__all__ = ["Classes", "MatchingLogit", "PooledEmbedding", "TokenLogits", "Votes"]
