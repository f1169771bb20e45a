"""An Experiment is everything that a run is, as one frozen value made by a Python function."""

import dataclasses
import importlib.util
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmjax import notation
from mmjax.errors import InputError
from mmjax.notation import to_text
from mmjax.overrides import missing_file, override
from mmjax.validation import validate

if TYPE_CHECKING:
    from mmjax.balance import Balance
    from mmjax.data import Mixture
    from mmjax.evals import Eval
    from mmjax.model import MultimodalModel
    from mmjax.objectives import Objective
    from mmjax.sharding import MeshShape, Rules
    from mmjax.train.optimizer import Optimizer

__all__ = ["Experiment", "from_text", "load", "override", "to_text"]


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


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a file that defines ``experiment()``, with overrides applied, validated.

    Raises InputError if the file is missing or fails, an override leads nowhere, or the parts do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise missing_file(path)
    spec = importlib.util.spec_from_file_location("mmjax_experiment_" + re.sub(r"\W", "_", path.stem), path)
    if spec is None or spec.loader is None:
        raise InputError(f"expected a Python file that defines experiment(), found {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
        make = vars(module).get("experiment")
        made = make() if callable(make) else None
    except InputError:
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # the file is the user's: whatever it raises is a fault of the configuration
        line = next(
            (
                f.lineno
                for f in reversed(traceback.extract_tb(error.__traceback__))
                if f.filename == str(path)
            ),
            None,
        )
        where = f"{path}, line {line}" if line else str(path)
        raise InputError(
            f"{where}: {type(error).__name__}: {error}. Run with --debug for the traceback"
        ) from error
    if not isinstance(made, Experiment):
        raise InputError(f"expected {path} to define experiment() -> Experiment, found {type(made).__name__}")
    for assignment in overrides:
        made = override(made, assignment)
    validate(made)
    return made


def from_text(text: str) -> Experiment:
    """The experiment that ``to_text`` printed. Raises InputError if it uses classes from outside mmjax."""
    made = notation.from_text(text)
    if not isinstance(made, Experiment):
        raise InputError(f"expected the text of an Experiment, found one of {type(made).__name__}")
    return made
