"""Examples -> one batch of static shapes."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mmjax.batch import Array, Batch, Stream


def collate(examples: Sequence[Mapping[str, Stream]], empty: Mapping[str, Stream]) -> Batch:
    """Stacks examples along a new batch axis; a stream that an example lacks is that of `empty`."""
    return {name: _stack([example.get(name, blank) for example in examples]) for name, blank in empty.items()}


def _stack(values: Sequence[Stream]) -> Stream:
    return type(values[0])(
        **{name: np.stack([getattr(value, name) for value in values]) for name in arrays(values[0])}
    )


def arrays(stream: Stream) -> dict[str, Array]:
    """{field: array} of a stream of any shapes, without the fields that are None until a view fills them."""
    fields = dataclasses.fields(stream)  # type: ignore[arg-type]  # streams are dataclasses
    values = {field.name: getattr(stream, field.name) for field in fields}
    return {name: array for name, array in values.items() if array is not None}
