"""Experiments: frozen values that a function returns, overrides change, and text stores."""

from mmjax.experiment.loading import from_text, load
from mmjax.experiment.overrides import override
from mmjax.experiment.serialize import to_text
from mmjax.experiment.value import Experiment

__all__ = ["Experiment", "from_text", "load", "override", "to_text"]
