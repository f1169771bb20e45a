"""Examples -> one batch of static shapes."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mmjax.batch import Batch, Stream


def collate(examples: Sequence[Mapping[str, Stream]], empty: Mapping[str, Stream]) -> Batch:
    """Stack; a stream that an example lacks is the ``empty`` one, whose mask is False everywhere."""
    return {name: _stack([example.get(name, blank) for example in examples]) for name, blank in empty.items()}


def _stack(values: Sequence[Stream]) -> Stream:
    names = [field.name for field in dataclasses.fields(values[0])]  # type: ignore[arg-type]  # streams are dataclasses
    given = [name for name in names if getattr(values[0], name) is not None]
    return type(values[0])(**{name: np.stack([getattr(value, name) for value in values]) for name in given})
