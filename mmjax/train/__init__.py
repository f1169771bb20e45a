"""Optimizers, the train state, the train step and its metrics."""

from mmjax.train.conflicts import jit_conflicts
from mmjax.train.optimizer import AdamW, Lion, Schedule
from mmjax.train.predictor import Predictor
from mmjax.train.state import TrainState, abstract_state, create_state
from mmjax.train.step import jit_step, train_step

__all__ = [
    "AdamW", "Lion", "Predictor", "Schedule", "TrainState", "abstract_state", "create_state",
    "jit_conflicts", "jit_step", "train_step",
]  # fmt: skip
