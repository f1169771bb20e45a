"""Encoded -> prediction."""

from mmjax.heads.classes import Classes
from mmjax.heads.embedding import PooledEmbedding
from mmjax.heads.matching import MatchingLogit
from mmjax.heads.quantiser import PatchQuantiser, Quantised
from mmjax.heads.reconstruction import Reconstruction
from mmjax.heads.tokens import TokenLogits
from mmjax.heads.votes import Votes

__all__ = [
    "Classes", "MatchingLogit", "PatchQuantiser", "PooledEmbedding", "Quantised", "Reconstruction",
    "TokenLogits", "Votes",
]  # fmt: skip
