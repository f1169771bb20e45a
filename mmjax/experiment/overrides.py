"""Overrides by dotted path: `model.encoders.image.trunk.depth=5` replaces one field of a frozen value."""

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.errors import InputError, excerpt, one_line
from mmjax.experiment.reading import from_text, unknown_field
from mmjax.spec import declared_types, fields, fits, type_name


def split(assignment: str) -> tuple[list[str], str]:
    """ "a.b=1" -> (["a", "b"], "1"). Raises InputError for text of another form."""
    path, equals, text = assignment.partition("=")
    names = [name.strip() for name in path.split(".")]
    if not equals or not all(names):
        raise InputError(f"an override reads path.to.field=value, found {excerpt(assignment)}")
    return names, text.strip()


def override(value: Any, assignment: str) -> Any:
    """A copy of `value` with one field changed, at any depth of dataclasses, dicts and tuples.

    Args:
      assignment: "path.to.field=value". The value is read as the field's declared type or, where that is Any
        or unknown, as the type of the current value.

    Raises:
      InputError: a field does not exist, or the value has the wrong type or is out of its field's range.

    >>> override({"steps": 10, "sizes": (1, 2)}, "sizes.1=5")
    {'steps': 10, 'sizes': (1, 5)}
    """
    names, text = split(assignment)
    return _rebuild(value, Any, names, text, [])


def _rebuild(value: Any, hint: Any, names: Sequence[str], text: str, path: list[str]) -> Any:
    name, rest = names[0], names[1:]
    field_path = [*path, name]

    def changed(current: Any, hint: Any) -> Any:
        if rest:
            return _rebuild(current, hint, rest, text, field_path)
        return parse(text, hint, current, field_path)

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        valid = {f.name: f for f in fields(value)}
        if name not in valid:
            raise unknown_field(path, type(value).__name__, name, valid)
        new = changed(getattr(value, name), declared_types(type(value))[name])
        try:
            return dataclasses.replace(value, **{name: new})
        except (TypeError, ValueError) as error:
            raise InputError(
                f"override {excerpt('.'.join(field_path) + '=' + text)} was refused: {one_line(str(error))}"
            ) from error

    if isinstance(value, Mapping):
        if name not in value:
            raise unknown_field(path, "dict", name, map(str, value))
        new = changed(value[name], _item_hint(hint, None))
        return {key: new if key == name else old for key, old in value.items()}

    if isinstance(value, tuple | list):
        if not name.isdecimal() or len(name) > 9 or int(name) >= len(value):
            raise unknown_field(path, type(value).__name__, name, map(str, range(len(value))))
        index = int(name)
        new = changed(value[index], _item_hint(hint, index))
        return type(value)(new if i == index else old for i, old in enumerate(value))

    raise InputError(
        f"'{'.'.join(path)}' is {excerpt(value)}, which has no fields: expected an override of "
        f"'{'.'.join(path)}' itself, found {excerpt('.'.join([*path, *names]))}"
    )


def _item_hint(hint: Any, index: int | None) -> Any:
    """The declared type of a mapping's values (index None), or of a tuple's or list's item."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        found = [_item_hint(argument, index) for argument in arguments]
        return next((item for item in found if item is not Any), Any)
    if index is None:
        return arguments[1] if origin in (dict, collections.abc.Mapping) else Any
    if origin is tuple and arguments[-1] is not Ellipsis:
        return arguments[index] if index < len(arguments) else Any
    return arguments[0] if origin in (tuple, list) else Any


def parse(text: str, hint: Any, current: Any, path: Sequence[str]) -> Any:
    """Reads the text of an override.

    Args:
      hint: the field's declared type. If it is Any or unknown, the type of the current value replaces it.
      path: of the field, for messages.

    Raises:
      InputError: the text is not of that type.
    """
    if hint is Any or isinstance(hint, str | typing.TypeVar):
        hint = Any if current is None else type(current)
    dotted, is_value = ".".join(path), dataclasses.is_dataclass(current)
    package = type(current).__module__.split(".")[1:2] if is_value else []
    words = {"true": "True", "false": "False"}
    try:
        return from_text(words.get(text, text), hint, dotted, *package)
    except InputError as error:
        if fits(text, hint):
            return text  # a string needs no quotes
        reason, expected = str(error), f"'{dotted}' expects {type_name(hint)}"
        if reason.startswith((f"'{dotted}.", f"'{dotted}'")) and not reason.startswith(expected):
            raise  # about a field or item of the value, or its text
        now = type_name(type(current)) if is_value else excerpt(current)
        found = reason.removeprefix(f"{expected}, ")
        if found == reason:  # not a value at all
            found = f"found {excerpt(text)}" + (f": {reason}" if is_value else "")
        raise InputError(f"{expected} (now {now}), {found}") from error
