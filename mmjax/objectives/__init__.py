"""Outputs of a view -> (loss, metrics)."""

from mmjax.objectives.causal_language import CausalLanguage
from mmjax.objectives.contrastive import InfoNCE, SigmoidPairs
from mmjax.objectives.ctc import CTC
from mmjax.objectives.masked_language import MaskedLanguage
from mmjax.objectives.matching import Matching
from mmjax.objectives.next_sentence import NextSentence
from mmjax.objectives.outputs import Objective, Outputs
from mmjax.objectives.token_classification import TokenClassification

__all__ = [
    "CTC", "CausalLanguage", "InfoNCE", "MaskedLanguage", "Matching", "NextSentence", "Objective", "Outputs",
    "SigmoidPairs", "TokenClassification",
]  # fmt: skip
