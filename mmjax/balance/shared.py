"""The parameters that several objectives share, chosen by prefixes of their paths."""

import collections
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mmjax.balance.base import Balance
from mmjax.errors import InputError

Arrays = dict[str, jax.Array]  # {path: array}
FUSION = "model/fusion"


def shared_prefixes(balance: Balance) -> tuple[str, ...]:
    """The path prefixes of the shared parameters."""
    return (FUSION,) if balance.shared_params is None else balance.shared_params


def split_params(params: Any, balance: Balance) -> tuple[Arrays, Arrays, Callable[[Arrays, Arrays], Any]]:
    """Splits parameters "..." without flax's boxes: (shared, rest, the function that merges them again).

    Raises InputError if no parameter lies under one of the prefixes.
    """
    paths, structure = jax.tree.flatten_with_path(params)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    prefixes = shared_prefixes(balance)
    for prefix in prefixes:
        if not any(is_under(path, prefix) for path in leaves):
            valid = sorted({"/".join(path.split("/")[:2]) for path in leaves})
            reason = ": this fusion has no parameters" if prefix == FUSION else ""
            raise InputError(
                f"balance.shared_params expects prefixes of parameter paths, found none under {prefix!r}"
                f"{reason}. Choose among {valid} and paths under these"
            )
    shared = {path: x for path, x in leaves.items() if any(is_under(path, prefix) for prefix in prefixes)}
    rest = {path: x for path, x in leaves.items() if path not in shared}

    def merge(shared: Arrays, rest: Arrays) -> Any:
        return jax.tree.unflatten(structure, [(shared | rest)[path] for path in leaves])

    return shared, rest, merge


def is_under(path: str, prefix: str) -> bool:
    """Whether a path is `prefix` or lies under it.

    >>> is_under("model/fusion/text_tag", "model/fusion"), is_under("model/heads_text", "model/heads")
    (True, False)
    """
    return f"{path}/".startswith(f"{prefix.rstrip('/')}/")


def modules_by_objective(model: Any, objectives: Mapping[str, Any]) -> dict[str, set[str]]:
    """{objective: path prefixes of the modules whose parameters its loss depends on}."""
    modules_of = {}
    for name, objective in objectives.items():
        heads = objective.required_heads()
        modules = {f"model/encoders_{model.encoder_name(stream)}" for stream in model.streams_for(heads)}
        modules |= {f"model/heads_{head}" for head in heads} | {f"objectives_{name}"}
        uses_fusion = any(model.heads[head].after == "fusion" for head in heads)
        modules_of[name] = modules | ({FUSION} if uses_fusion else set())
    return modules_of


def check_objectives_share(balance: Balance, model: Any, objectives: Mapping[str, Any]) -> None:
    """Raises InputError if fewer than two objectives depend on the shared parameters."""
    modules_of, prefixes = modules_by_objective(model, objectives), shared_prefixes(balance)

    def depends_on_shared(name: str) -> bool:
        pairs = [(module, prefix) for module in modules_of[name] for prefix in prefixes]
        return any(is_under(module, prefix) or is_under(prefix, module) for module, prefix in pairs)

    dependent = [name for name in objectives if depends_on_shared(name)]
    if len(dependent) < 2:
        count = collections.Counter(module for modules in modules_of.values() for module in modules)
        candidates = sorted(module for module, num_objectives in count.items() if num_objectives > 1)
        advice = (
            f"set balance.shared_params to some that several objectives reach, among {candidates}"
            if candidates
            else "no parameters are shared"
        )
        raise InputError(
            f"{type(balance).__name__} expects at least two objectives that reach the shared parameters "
            f"{list(prefixes)}, found {dependent} among {list(objectives)}: {advice}"
        )
