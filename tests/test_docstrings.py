"""Every public name has a docstring, and every array in a public signature has its shape written down.

A method without a docstring of its own has that of the base class that declares it. A shape is written in a
jaxtyping annotation, or in the docstring: in quotes ("B L D", "N") or as "scalar". PRNG keys are exempt.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mmjax

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(mmjax.__path__, "mmjax.")
    if not module.name.split(".")[-1].startswith("_")
)
# An array without axes in its annotation. `Float32[jax.Array, "B L"]` has them.
BARE_ARRAY = re.compile(r"(?<![\w\[.])(?:jax\.|jnp\.|np\.)?(?:Array|ndarray)\b")
SHAPE = re.compile(r'"[A-Z][^"]*"|"(?:\.\.\.|\w+ )[^"]*"|\bscalars?\b|\bshape')


def public(module_name: str) -> Iterator[tuple[str, Any]]:
    """(dotted name, object) of the module's own public classes, functions and methods."""
    module = importlib.import_module(module_name)
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module_name
        if name.startswith("_") or not own or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        yield f"{module_name}.{name}", value
        if inspect.isclass(value):
            for method, member in vars(value).items():
                if not method.startswith("_") and isinstance(member, Callable | property | classmethod):
                    yield f"{module_name}.{name}.{method}", getattr(value, method)


def documented(value: Any) -> str:
    """Its docstring, or that of the base class's method. flax and dataclasses write some themselves."""
    text = inspect.getdoc(value) or ""
    return "" if inspect.isclass(value) and text.startswith(f"{value.__name__}(") else text


def bare_arrays(function: Callable) -> list[str]:
    """The parameters (and "return") that are annotated as arrays without axes."""
    annotations = getattr(inspect.unwrap(function), "__annotations__", {})
    spelled = {
        name: hint if isinstance(hint, str) else inspect.formatannotation(hint)
        for name, hint in annotations.items()
    }
    return [
        name
        for name, hint in spelled.items()
        if name != "key" and BARE_ARRAY.search(re.sub(r"\w+\[[^\[\]]*Array, ['\"][^'\"]*['\"]\]", "", hint))
    ]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_docstrings(module):
    missing = [name for name, value in public(module) if not documented(value)]
    assert not missing, f"expected a docstring of one line or more, found none: {missing}"


@pytest.mark.parametrize("module", MODULES)
def test_arrays_have_their_shapes(module):
    without = {
        name: arrays
        for name, value in public(module)
        if inspect.isfunction(value)
        and (arrays := bare_arrays(value))
        and not SHAPE.search(documented(value))
    }
    assert not without, f'expected axes such as "B L D" in the annotation or docstring, found none: {without}'
