"""Overrides by dotted path: `model.encoders.image.trunk.depth=5` replaces one field of a frozen value."""

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmjax.errors import InputError
from mmjax.experiment import serialize
from mmjax.spec import fields


def split(assignment: str) -> tuple[list[str], str]:
    """ "a.b=1" -> (["a", "b"], "1"). Raises InputError for text of another form."""
    path, equals, text = assignment.partition("=")
    names = [name.strip() for name in path.split(".")]
    if not equals or not all(names):
        raise InputError(f"an override reads path.to.field=value, found {assignment!r}")
    return names, text.strip()


def unknown_field(path: Sequence[str], owner: str, name: str, valid: Iterable[str]) -> InputError:
    """The error for a path that names no field; suggests the field with the closest name."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1)
    where = f"'{'.'.join(path)}' ({owner})" if path else owner
    hint = f"did you mean {close[0]!r}? " if close else ""
    return InputError(f"{where} has no field {name!r}: {hint}valid fields are {valid}")


def override(value: Any, assignment: str) -> Any:
    """A copy of `value` with one field changed, at any depth of dataclasses, dicts and tuples.

    Args:
      assignment: "path.to.field=value". The value is read as the field's declared type or, where that is Any
        or unknown, as the type of the current value.

    Raises:
      InputError: a field does not exist, or the value has the wrong type.

    >>> override({"steps": 10, "sizes": (1, 2)}, "sizes.1=5")
    {'steps': 10, 'sizes': (1, 5)}
    """
    names, text = split(assignment)
    return _rebuild(value, names, text, [])


def _rebuild(value: Any, names: Sequence[str], text: str, path: list[str]) -> Any:
    name, rest = names[0], names[1:]
    field_path = [*path, name]

    def changed(current: Any, hint: Any) -> Any:
        return _rebuild(current, rest, text, field_path) if rest else parse(text, hint, current, field_path)

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        valid = {f.name: f for f in fields(value)}
        if name not in valid:
            raise unknown_field(path, type(value).__name__, name, valid)
        current = getattr(value, name)
        new = changed(current, _hint(type(value), name))
        try:
            return dataclasses.replace(value, **{name: new})
        except (TypeError, ValueError) as error:
            raise InputError(f"override '{'.'.join(field_path)}={text}' was refused: {error}") from error

    if isinstance(value, Mapping):
        if name not in value:
            raise unknown_field(path, "dict", name, map(str, value))
        current = value[name]
        new = changed(current, type(current))
        return {key: new if key == name else old for key, old in value.items()}

    if isinstance(value, tuple | list):
        if not name.isdecimal() or int(name) >= len(value):
            raise unknown_field(path, type(value).__name__, name, map(str, range(len(value))))
        index = int(name)
        current = value[index]
        new = changed(current, type(current))
        return type(value)(new if i == index else old for i, old in enumerate(value))

    raise InputError(
        f"'{'.'.join(path)}' is {value!r}, which has no fields: expected an override of '{'.'.join(path)}' "
        f"itself, found '{'.'.join([*path, *names])}'"
    )


def _hint(owner: type, name: str) -> Any:
    """A field's declared type; `Any` where the annotation cannot be resolved at run time."""
    try:
        return typing.get_type_hints(owner).get(name, Any)
    except (NameError, TypeError, AttributeError):  # names that are imported for type checkers only
        return Any


def parse(text: str, hint: Any, current: Any, path: Sequence[str]) -> Any:
    """Reads the text of an override.

    Args:
      hint: the field's declared type. If it is Any or unknown, the type of the current value replaces it.
      path: of the field, for messages.

    Raises:
      InputError: the text is not of that type.
    """
    if _is_uninformative(hint):
        hint = Any if current is None else type(current)

    if dataclasses.is_dataclass(current) and not isinstance(current, type):
        return _parse_value(text, current, path)

    literal = {"true": True, "false": False}.get(text, _NOT_A_LITERAL)
    if literal is _NOT_A_LITERAL:
        try:
            literal = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            literal = _NOT_A_LITERAL

    if literal is not _NOT_A_LITERAL and not isinstance(literal, str) and _fits(literal, hint):
        return _convert(literal, hint)
    if _fits(text, hint):
        return text  # a string needs no quotes
    found = repr(text) if literal is _NOT_A_LITERAL else f"{type(literal).__name__} {literal!r}"
    raise InputError(f"'{'.'.join(path)}' expects {_type_name(hint)} (now {current!r}), found {found}")


def _parse_value(text: str, current: Any, path: Sequence[str]) -> Any:
    """A whole value as experiment.txt writes it: `rules=FSDP`, `optimizer=training.Lion(...)`."""
    package = type(current).__module__.split(".")[1:2]
    try:
        new = serialize.from_text(text, default_package=package[0] if package else "")
    except InputError as error:
        raise InputError(
            f"'{'.'.join(path)}' expects a value like {type(current).__name__}: {error}"
        ) from error
    if (
        not dataclasses.is_dataclass(new)
        or type(new).__module__.split(".")[:2] != type(current).__module__.split(".")[:2]
    ):
        raise InputError(f"'{'.'.join(path)}' expects a value like {type(current).__name__}, found {text!r}")
    return new


_NOT_A_LITERAL = object()


def _is_uninformative(hint: Any) -> bool:
    return hint is Any or isinstance(hint, str | typing.TypeVar)


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments and type(value) in {type(a) for a in arguments}
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        if arguments[-1:] == (Ellipsis,):
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is tuple:
        return isinstance(value, tuple | list)
    kind = origin or hint
    return isinstance(kind, type) and isinstance(value, kind)


def _convert(value: Any, hint: Any) -> Any:
    """Converts ints to floats and lists to tuples as the field declares, so that texts compare equal."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        exact = [a for a in arguments if type(value) is (typing.get_origin(a) or a)]
        return _convert(value, next(a for a in [*exact, *arguments] if _fits(value, a)))
    if hint is float:
        return float(value)
    if origin is tuple:
        inner = [arguments[0]] * len(value) if arguments[-1:] == (Ellipsis,) else arguments
        return tuple(map(_convert, value, inner))
    return tuple(value) if hint is tuple else value


def _type_name(hint: Any) -> str:
    return (
        hint.__name__
        if isinstance(hint, type) and not typing.get_args(hint)
        else str(hint).replace("typing.", "")
    )
