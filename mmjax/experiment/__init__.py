"""Experiments: frozen values made by a function, changed by overrides, stored as text."""

from mmjax.experiment.loading import from_text, load
from mmjax.experiment.overrides import override
from mmjax.experiment.serialize import to_text
from mmjax.experiment.value import Experiment

__all__ = ["Experiment", "from_text", "load", "override", "to_text"]
