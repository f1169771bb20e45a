"""Outputs of a view -> (loss, metrics)."""

from mmjax.objectives.boxes import Boxes
from mmjax.objectives.contrastive import InfoNCE, SigmoidPairs
from mmjax.objectives.distillation import Distillation
from mmjax.objectives.masked_language import MaskedLanguage
from mmjax.objectives.matching import Matching
from mmjax.objectives.multiway import MultiwayInfoNCE
from mmjax.objectives.next_sentence import NextSentence
from mmjax.objectives.outputs import Objective, Outputs

__all__ = [
    "Boxes",
    "Distillation",
    "InfoNCE",
    "MaskedLanguage",
    "Matching",
    "MultiwayInfoNCE",
    "NextSentence",
    "Objective",
    "Outputs",
    "SigmoidPairs",
]
