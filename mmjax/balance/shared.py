"""The parameters that objectives share: named by prefix, split from the rest, and who reaches them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from mmjax.balance.base import Balance
from mmjax.errors import InputError

Arrays = dict[str, jax.Array]
FUSION = "model/fusion"


def prefixes(balance: Balance) -> tuple[str, ...]:
    """Of the shared parameters."""
    return (FUSION,) if balance.shared is None else balance.shared


def split(params: Any, balance: Balance) -> tuple[Arrays, Arrays, Callable[[Arrays, Arrays], Any]]:
    """(shared, rest, the function that makes parameters of both), by path; `params` without flax's boxes.

    Raises InputError for a prefix under which no parameter lies.
    """
    paths, structure = jax.tree.flatten_with_path(params)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    for prefix in prefixes(balance):
        if not any(within(name, prefix) for name in leaves):
            valid = sorted({"/".join(name.split("/")[:2]) for name in leaves})
            why = ": this fusion has no parameters" if prefix == FUSION else ""
            raise InputError(
                f"balance.shared expects prefixes of parameters, found none under {prefix!r}{why}. Name what "
                f"the objectives share in balance.shared, among {valid} and what lies under these"
            )
    shared = {n: x for n, x in leaves.items() if any(within(n, prefix) for prefix in prefixes(balance))}
    rest = {n: x for n, x in leaves.items() if n not in shared}

    def merge(shared: Arrays, rest: Arrays) -> Any:
        return jax.tree.unflatten(structure, [(shared | rest)[name] for name in leaves])

    return shared, rest, merge


def within(name: str, prefix: str) -> bool:
    """Whether a path is `prefix` or lies under it.

    >>> within("model/fusion/text_tag", "model/fusion"), within("model/heads_text", "model/heads")
    (True, False)
    """
    return f"{name}/".startswith(f"{prefix.rstrip('/')}/")


def reached(model: Any, objectives: Mapping[str, Any]) -> dict[str, set[str]]:
    """{objective: prefixes of the modules that its loss can depend on}."""
    found = {}
    for name, objective in objectives.items():
        heads = objective.required_heads()
        modules = {f"model/encoders_{model.encoder_of(stream)}" for stream in model.streams_for(heads)}
        modules |= {f"model/heads_{head}" for head in heads} | {f"objectives_{name}"}
        fuses = any(model.heads[head].after == "fusion" for head in heads)
        found[name] = modules | ({FUSION} if fuses else set())
    return found


def refuse_unshared(balance: Balance, model: Any, objectives: Mapping[str, Any]) -> None:
    """Raises InputError where fewer than two objectives reach the shared parameters."""
    by = reached(model, objectives)

    def reaches(name: str) -> bool:
        pairs = [(module, prefix) for module in by[name] for prefix in prefixes(balance)]
        return any(within(module, prefix) or within(prefix, module) for module, prefix in pairs)

    reach = [name for name in objectives if reaches(name)]
    if len(reach) < 2:
        count = {
            module: sum(module in modules for modules in by.values()) for module in set().union(*by.values())
        }
        better = sorted(module for module, readers in count.items() if readers > 1)
        advice = (
            f"name in balance.shared what several reach, among {better}"
            if better
            else "no parameters are shared"
        )
        raise InputError(
            f"{type(balance).__name__} expects at least two objectives that reach the shared parameters "
            f"{list(prefixes(balance))}, found {reach} among {list(objectives)}: {advice}"
        )
