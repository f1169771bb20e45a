"""Examples -> one batch of static shapes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.batch import Array, Batch, Stream
from mmjax.errors import InputError, excerpt


def collate(examples: Sequence[Mapping[str, Stream]], empty: Mapping[str, Stream]) -> Batch:
    """Stacks examples along a new batch axis; a stream that an example lacks is that of `empty`.

    Raises:
        InputError: a stream has other types or shapes than in `empty`.
    """
    return {
        name: _stack(name, [example.get(name, blank) for example in examples], blank)
        for name, blank in empty.items()
    }


def _stack(name: str, values: Sequence[Stream], blank: Stream) -> Stream:
    fields = arrays(blank)
    try:
        stacked = type(blank)(**{f: np.stack([getattr(value, f) for value in values]) for f in fields})
    except (AttributeError, ValueError) as error:
        raise InputError(f"expected equal types and shapes in the stream {name!r}, found {error}") from error
    for field, expected in fields.items():  # stacking has cast arrays of different types to one type
        found = getattr(stacked, field)
        if found.dtype != expected.dtype or found.shape[1:] != expected.shape:
            row = f"{found.dtype}{list(found.shape[1:])}"
            raise InputError(f"the stream {name!r}: {_expected(field, expected)}, found {row}")
    return stacked


def describe_mismatch(value: Any, blank: Stream) -> str | None:
    """The first difference in type or shape of a value's arrays from those of `blank`; None: none."""
    if type(value) is not type(blank):
        return f"expected {type(blank).__name__}, found {type(value).__name__}"
    for name, expected in vars(blank).items():
        found = getattr(value, name)
        if expected is None and found is None:
            continue
        if not (isinstance(found, (np.ndarray, np.generic)) and isinstance(expected, np.ndarray)):
            return f"expected {name} like {excerpt(expected)}, as of `empty`, found {excerpt(found)}"
        if found.dtype != expected.dtype or found.shape != expected.shape:
            return f"{_expected(name, expected)}, found {found.dtype}{list(found.shape)}"
    return None


def _expected(name: str, array: np.ndarray) -> str:
    return f"expected {name} {array.dtype}{list(array.shape)}, as `empty` of its transform"


def arrays(stream: Stream) -> dict[str, Array]:
    """{field: array} of a stream of any shapes, without the fields that are None until a view fills them."""
    fields = dataclasses.fields(stream)  # type: ignore[arg-type]  # streams are dataclasses
    values = {field.name: getattr(stream, field.name) for field in fields}
    return {name: array for name, array in values.items() if array is not None}
