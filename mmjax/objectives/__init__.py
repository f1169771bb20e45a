"""Objectives: each computes a loss and metrics from the model's outputs under one view of the batch."""

from mmjax.objectives.adversarial import Adversarial
from mmjax.objectives.base import Metrics, Objective, OneHeadObjective, Outputs
from mmjax.objectives.boxes import Boxes
from mmjax.objectives.causal_language import CausalLanguage
from mmjax.objectives.classification import Classification, MultiLabel
from mmjax.objectives.contrastive import InfoNCE, SigmoidPairs
from mmjax.objectives.ctc import CTC
from mmjax.objectives.distillation import Distillation
from mmjax.objectives.masked_language import MaskedLanguage
from mmjax.objectives.masked_patches import MaskedCodes, MaskedPatches, MaskedSpectrogram
from mmjax.objectives.matching import Matching
from mmjax.objectives.means import Mean, mean_over_batches, with_weights, without_weights
from mmjax.objectives.multiway import MultiwayInfoNCE
from mmjax.objectives.next_sentence import NextSentence
from mmjax.objectives.token_classification import TokenClassification
from mmjax.objectives.vector_quantised import VectorQuantised

__all__ = [
    "Adversarial", "Boxes", "CTC", "CausalLanguage", "Classification", "Distillation", "InfoNCE",
    "MaskedCodes", "MaskedLanguage", "MaskedPatches", "MaskedSpectrogram", "Matching", "Mean", "Metrics",
    "MultiLabel", "MultiwayInfoNCE", "NextSentence", "Objective", "OneHeadObjective", "Outputs",
    "SigmoidPairs", "TokenClassification", "VectorQuantised", "mean_over_batches", "with_weights",
    "without_weights",
]  # fmt: skip
