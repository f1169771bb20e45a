"""From several objectives to one update: what weighs their losses, and what mends their gradients."""

from mmjax.balance.base import Balance, BalanceInputs, BalanceOutput, Fixed
from mmjax.balance.surgery import MGDA, CAGrad, Interpolate, MeanGradients, NashMTL, PCGrad, Surgery
from mmjax.balance.weights import DynamicWeightAverage, GradNorm, Scheduled, Uncertainty

__all__ = [
    "Balance", "CAGrad", "BalanceOutput", "DynamicWeightAverage", "Fixed", "GradNorm", "Interpolate", "MGDA",
    "MeanGradients", "NashMTL", "PCGrad", "Scheduled", "BalanceInputs", "Surgery", "Uncertainty",
]  # fmt: skip
