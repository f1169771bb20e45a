"""An Experiment is everything that a run is, as one frozen value made by a Python function."""

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mmjax.balance import Balance
    from mmjax.data import Mixture
    from mmjax.evals import Eval
    from mmjax.model import MultimodalModel
    from mmjax.objectives import Objective
    from mmjax.sharding import MeshShape, Rules
    from mmjax.train.optimizer import Optimizer


def _fixed() -> "Balance":
    from mmjax.balance import Fixed

    return Fixed()


def _one_device() -> "MeshShape":
    from mmjax.sharding import MeshShape

    return MeshShape()


def _replicated() -> "Rules":
    from mmjax.sharding import REPLICATED

    return REPLICATED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that a run is. Making one touches no device, disk or network."""

    name: str  # also the default folder: runs/<name>
    num_steps: int
    data: "Mixture"
    model: "MultimodalModel"
    objectives: "dict[str, Objective]"
    optimizer: "Optimizer"
    evals: "dict[str, Eval]" = dataclasses.field(default_factory=dict)
    seed: int = 0  # of parameters, dropout, views and the order of the data
    mesh: "MeshShape" = dataclasses.field(default_factory=_one_device)
    rules: "Rules" = dataclasses.field(default_factory=_replicated)
    log_every: int = 20  # steps
    save_every: int = 500  # steps
    eval_every: int = 0  # steps; 0: only at the end
    max_to_keep: int = 2  # the newest checkpoints
    keep_every: int = 0  # steps; checkpoints at its multiples stay for good, 0: none
    keep_best: str | None = None  # "eval/metric": the checkpoint where it was best stays too
    best_mode: Literal["max", "min"] = "max"  # which value of keep_best is the best
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"  # at a step that is not finite
    balance: "Balance" = dataclasses.field(default_factory=_fixed)  # how objectives become one update
    conflict_every: int = 0  # steps between reports of how their gradients conflict; 0: none
