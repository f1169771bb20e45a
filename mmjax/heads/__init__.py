"""Heads: turn encodings into predictions."""

from mmjax.heads.adversarial import RealOrGenerated
from mmjax.heads.attention_pooling import AttentionPooledEmbedding
from mmjax.heads.base import Head
from mmjax.heads.boxes import Boxes
from mmjax.heads.classes import Classes
from mmjax.heads.embedding import PooledEmbedding
from mmjax.heads.matching import MatchingLogit
from mmjax.heads.positions import FrameLogits, MaskedLogits, PositionClasses
from mmjax.heads.quantiser import PatchQuantiser, Quantised
from mmjax.heads.reconstruction import Reconstruction
from mmjax.heads.tokens import TokenLogits
from mmjax.heads.votes import Votes

__all__ = [
    "AttentionPooledEmbedding", "Boxes", "Classes", "FrameLogits", "Head", "MaskedLogits", "MatchingLogit",
    "PatchQuantiser", "PooledEmbedding", "PositionClasses", "Quantised", "RealOrGenerated", "Reconstruction",
    "TokenLogits", "Votes",
]  # fmt: skip
