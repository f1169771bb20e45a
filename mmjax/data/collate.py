"""Examples -> one batch of static shapes."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mmjax.batch import Batch, Stream


def collate(examples: Sequence[Mapping[str, Stream]], empty: Mapping[str, Stream]) -> Batch:
    """Stacks examples along a new batch axis.

    Args:
        examples: {stream: value without batch axis} each.
        empty: the missing value of every stream, which takes the place of a stream that an example lacks.
    """
    return {name: _stack([example.get(name, blank) for example in examples]) for name, blank in empty.items()}


def _stack(values: Sequence[Stream]) -> Stream:
    fields = dataclasses.fields(values[0])  # type: ignore[arg-type]  # streams are dataclasses
    # Fields that only views fill are None in every example.
    names = [field.name for field in fields if getattr(values[0], field.name) is not None]
    return type(values[0])(**{name: np.stack([getattr(value, name) for value in values]) for name in names})
