"""The differences of two modules that change what they compute."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn

from mmjax.errors import excerpt
from mmjax.spec import fields

# Fields that change how, not what, a module computes, or only training, or the start of training. A clip's
# length is the user's choice: Whisper pads to 30 s, and costs a tenth where 3 s are enough.
FREE_FIELDS = frozenset(
    {"dtype", "scan", "remat", "dropout", "taps", "position_init_std", "augment", "clip_seconds"}
)


def different_fields(file: Any, own: Any, path: str) -> Iterator[str]:
    """The fields of two modules that differ and change what they compute, one line each."""
    if dataclasses.is_dataclass(file) and type(file) is type(own):
        for field in fields(file):
            both = getattr(file, field.name), getattr(own, field.name)
            if field.name == "layer_scale" and None not in both:
                continue  # the value at which it starts
            if field.name not in FREE_FIELDS:
                inner = f"{path}.{field.name}" if path else field.name
                yield from different_fields(*both, inner)
    elif isinstance(file, Mapping) and isinstance(own, Mapping) and file.keys() == own.keys():
        for key in file:
            yield from different_fields(file[key], own[key], f"{path}.{key}" if path else str(key))
    elif file != own:
        yield f"{path}: {_brief(file)} -> {_brief(own)}"


def _brief(value: Any) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else excerpt(value)
