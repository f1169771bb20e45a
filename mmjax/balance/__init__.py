"""From several objectives to one update: balances weigh their losses or combine their gradients."""

from mmjax.balance.base import Balance, BalanceInputs, BalanceOutput, Fixed
from mmjax.balance.surgery import MGDA, CAGrad, Interpolate, MeanGradients, NashMTL, PCGrad, Surgery
from mmjax.balance.weights import DynamicWeightAverage, GradNorm, Scheduled, Uncertainty

__all__ = [
    "Balance", "BalanceInputs", "BalanceOutput", "CAGrad", "DynamicWeightAverage", "Fixed", "GradNorm",
    "Interpolate", "MGDA", "MeanGradients", "NashMTL", "PCGrad", "Scheduled", "Surgery", "Uncertainty",
]  # fmt: skip
