"""Which fields of an experiment may change when its run resumes, and why the others may not."""

import dataclasses
import re
from typing import TYPE_CHECKING

import numpy as np

from mmjax.errors import one_line
from mmjax.experiment.serialize import changed_fields

if TYPE_CHECKING:
    from mmjax.training.optimizer import Optimizer

# (fields, as a regular expression of their dotted paths; why they change nothing in the steps already taken)
MAY_CHANGE = (
    (r"(mesh|rules)(\..*)?", "the same steps on other devices"),
    (r"log_every|conflict_every", "what is logged"),
    (r"save_every|max_to_keep|keep_every|keep_best|best_mode", "which checkpoints are kept"),
    (r"eval_every|evals\..*\.every", "when evaluations run"),
    (r"on_nonfinite", "what happens after the next non-finite step"),
    (r"(data|evals\..*)\.max_bad_fraction", "when bad data stop the run"),
    (r"data\.datasets\..*\.cache|evals\..*\.(data|train)\.cache", "what is kept in memory"),
    # run/identity.py compares the data, and the run holds its tokenizers.
    (r"(data|evals)\..*\.(path|hint|directory)", "where the data and tokenizers are"),
)
# (the first name of a path: what of the past the field would change)
CHANGES_THE_PAST = {
    "name": "the folder belongs to the experiment of that name",
    "num_steps": "the learning rates of the steps already taken depend on it",
    "seed": "the parameters, and the order of the data, came from it",
    "data": "the steps already taken read other examples",
    "model": "the checkpoint holds the parameters of another model",
    "objectives": "the steps already taken minimised another loss",
    "optimizer": "the updates already made are other ones",
    "balance": "the updates already made weighted the objectives otherwise",
    "evals": "the results already recorded measured something else",
    "init_from": "the parameters started from other files",
}


@dataclasses.dataclass(frozen=True)
class Past:
    """The progress of a run.

    text: its experiment. num_taken: the step of its newest checkpoint.
    """

    text: str
    num_taken: int


def changes_of(past: Past, text: str, optimizer: "Optimizer | None" = None) -> tuple[list[str], list[str]]:
    """The fields that differ from the run's: those that may change, and those that may not, with the reason.

    Args:
      text: of the experiment that would resume the run.
      optimizer: its optimizer, which decides whether `num_steps` may change; None: it may not.

    Returns:
      A line for each, such as "log_every: 20 -> 5".

    Raises:
      InputError: a text is damaged.
    """
    allowed, refused = [], []
    changed = changed_fields(past.text, text)
    for path, (old, new) in changed.items():
        line = f"{one_line(path, 100)}: {one_line(old, 60)} -> {one_line(new, 60)}"
        reason = _reason(path, old, new, past, optimizer)
        if reason is None or _is_whole_evaluation(path, changed):
            allowed.append(line)
        else:
            refused.append(f"{line} ({reason})")
    return allowed, refused


def _reason(path: str, old: str, new: str, past: Past, optimizer: "Optimizer | None") -> str | None:
    """Why a field may not change; None if it may."""
    if any(re.fullmatch(pattern, path) for pattern, _ in MAY_CHANGE):
        return None
    if path == "num_steps" and optimizer is not None and old.isdecimal() and new.isdecimal():
        return _num_steps_reason(int(old), int(new), past.num_taken, optimizer)
    return CHANGES_THE_PAST.get(path.split(".")[0], "the steps already taken may depend on it")


def _num_steps_reason(old: int, new: int, num_taken: int, optimizer: "Optimizer") -> str | None:
    if new < num_taken:
        return f"{num_taken} steps are already taken"
    rates, other_rates = (optimizer.learning_rates(num_steps, num_taken) for num_steps in (old, new))
    if np.array_equal(rates, other_rates):
        return None
    step = int(np.flatnonzero(rates != other_rates)[0])
    return (
        f"the {optimizer.schedule.kind!r} schedule of {new} steps has another learning rate at step "
        f"{step + 1} of the {num_taken} that are taken: {other_rates[step]:.3g} instead of {rates[step]:.3g}"
    )


def _is_whole_evaluation(path: str, changed: dict[str, tuple[str, str]]) -> bool:
    """Whether the field belongs to an evaluation that only one of the two experiments has."""
    if path == "evals":  # {} on one side
        return "{}" in changed[path]
    head = path.split(".")[:2]
    return head[0] == "evals" and "(absent)" in changed.get(".".join(head), ())
