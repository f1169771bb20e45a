"""From several objectives to one update: what weighs their losses, and what mends their gradients."""

from mmjax.balance.base import Balance, Decision, Fixed, Seen
from mmjax.balance.surgery import MGDA, CAGrad, Interpolate, MeanGradients, NashMTL, PCGrad, Surgery
from mmjax.balance.weights import DynamicWeightAverage, GradNorm, Scheduled, Uncertainty

__all__ = [
    "Balance", "CAGrad", "Decision", "DynamicWeightAverage", "Fixed", "GradNorm", "Interpolate", "MGDA",
    "MeanGradients", "NashMTL", "PCGrad", "Scheduled", "Seen", "Surgery", "Uncertainty",
]  # fmt: skip
