"""Values of a config.json, checked: a stranger's file may hold anything."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.batch import Image, Text
from mmjax.errors import InputError, excerpt

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def integer(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A size. Raises InputError if it is missing and has no default, or is no whole number of at least 0."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise InputError(f"expected a whole number {name!r} in config.json, found {excerpt(value)}")
    return value


def number(config: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A number. Raises InputError if it is missing and has no default, or is no finite number."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e30 < value < 1e30:
        raise InputError(f"expected a number {name!r} in config.json, found {excerpt(value)}")
    return float(value)


def activation(config: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """The name of an activation in mmjax. Raises InputError for one that mmjax does not have."""
    value = config.get(name, default)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise InputError(
            f"expected {name!r} in config.json to be one of {sorted(ACTIVATIONS)}, found {excerpt(value)}"
        )
    return ACTIVATIONS[value]


def section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A nested configuration, such as "text_config". Raises InputError if it is missing or no object."""
    value = config.get(name)
    if not isinstance(value, dict):
        raise InputError(f"expected an object {name!r} in config.json, found {excerpt(value)}")
    return value


def text_input() -> dict[str, Text]:
    """A text of one token."""
    tokens = np.zeros((1, 1), np.int32)
    return {"text": Text(tokens=tokens, mask=np.ones((1, 1), bool), token_types=tokens, words=tokens)}


def image_input(config: Mapping[str, Any]) -> dict[str, Image]:
    """An image of the size that the configuration names, of whole patches."""
    side = integer(config, "image_size", 224)
    return {"image": Image(pixels=np.zeros((1, side, side, 3), np.float32), mask=np.ones(1, bool))}


def activation_name(activation: str) -> str:
    """The inverse of `activation`; an unknown one stays as it is.

    >>> activation_name("gelu_tanh"), activation_name("gelu")
    ('gelu_new', 'gelu')
    """
    return next((name for name, ours in ACTIVATIONS.items() if ours == activation), activation)
