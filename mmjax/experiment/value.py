"""An Experiment describes a run completely: one frozen value, which a Python function returns."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from mmjax.ranges import Count, Seed, Whole
from mmjax.spec import Spec, check_tree

if TYPE_CHECKING:
    from mmjax.balance import Balance
    from mmjax.data import Mixture
    from mmjax.evals import Eval
    from mmjax.model import MultimodalModel
    from mmjax.objectives import Objective
    from mmjax.sharding import MeshShape, Rules
    from mmjax.training.optimizer import Optimizer


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
class Experiment(Spec):
    """A complete description of a run. Making one touches no device, disk or network."""

    name: str  # the default folder is runs/<name>
    num_steps: Count
    data: "Mixture"
    model: "MultimodalModel"
    objectives: "dict[str, Objective]"
    optimizer: "Optimizer"
    evals: "dict[str, Eval]" = dataclasses.field(default_factory=dict)
    seed: Seed = 0  # for parameters, dropout, views and the order of the data
    mesh: "MeshShape" = dataclasses.field(default_factory=_one_device)
    rules: "Rules" = dataclasses.field(default_factory=_replicated)
    log_every: Count = 20  # steps
    save_every: Count = 500  # steps
    eval_every: Whole = 0  # steps; 0: only after the last
    max_to_keep: Count = 2  # the number of newest checkpoints kept
    keep_every: Whole = 0  # steps; checkpoints at its multiples are kept for ever; 0: none
    keep_best: str | None = None  # "eval/metric": the checkpoint with its best value is kept too
    best_mode: Literal["max", "min"] = "max"  # whether the largest or the smallest value is the best
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"  # what to do at a non-finite step
    balance: "Balance" = dataclasses.field(default_factory=_fixed)  # how several losses become one update
    init_from: str | dict[str, str] | None = None  # folders of pretrained models or runs (interop/initial.py)
    conflict_every: Whole = 0  # steps between reports of conflicting gradients; 0: none

    def __post_init__(self) -> None:
        check_tree(self)  # the modules too, which check nothing when they are constructed
