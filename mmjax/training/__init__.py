"""Optimizers, the train state, the train step and its metrics."""

from mmjax.training.conflicts import jit_conflicts
from mmjax.training.optimizer import AdamW, Lion, Schedule
from mmjax.training.predictor import Predictor
from mmjax.training.state import TrainState, abstract_state, create_state, with_params
from mmjax.training.step import jit_step, train_step

__all__ = [
    "AdamW", "Lion", "Predictor", "Schedule", "TrainState", "abstract_state", "create_state",
    "jit_conflicts", "jit_step", "train_step", "with_params",
]  # fmt: skip
