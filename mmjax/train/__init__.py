"""Optimizers, state, the compiled step, and what is measured."""

from mmjax.train.conflicts import compile_conflicts
from mmjax.train.optimizer import AdamW, Lion, Schedule
from mmjax.train.predictor import Predictor
from mmjax.train.state import TrainState, abstract_state, create_state
from mmjax.train.step import compile_step, jit_step, train_step

__all__ = [
    "AdamW", "Lion", "Predictor", "Schedule", "TrainState", "abstract_state",
    "compile_conflicts", "compile_step", "create_state", "jit_step", "train_step",
]  # fmt: skip
