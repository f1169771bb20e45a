"""Text -> values: literals, dicts, tuples and calls of the classes that experiments hold. Never evaluated.

A field's text is compared with its declared type before anything is constructed from it, and the classes are
those of VALUE_PACKAGES, which read and write nothing when they are constructed. So a stranger's
`experiment.txt` or override can do no more than describe an experiment.
"""

import ast
import collections.abc
import dataclasses
import difflib
import importlib
import importlib.util
import types
import typing
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from mmjax.errors import InputError, excerpt, one_line
from mmjax.spec import Spec, check_type, declared_types, fields, is_module, type_name

# The packages whose frozen values and modules experiments hold. Text can construct no others.
VALUE_PACKAGES = (
    "data", "views", "objectives", "balance", "evals", "training", "sharding", "experiment", "layers",
    "encoders", "fusion", "heads", "model",
)  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16", "float64", "int32", "int8", "uint8", "bool_")
MAX_TEXT = 2**20  # characters; Python's parser takes some 300 bytes for each
MAX_NESTING = 100  # levels of the syntax tree, two a call; an experiment has about 30


def from_text(text: str, hint: Any = Any, path: str = "", package: str = "experiment") -> Any:
    """The value that `to_text` printed.

    Args:
      hint: the declared type that the value must have.
      path: dotted, of the value, for messages.
      package: where names without a dot are looked up.

    Raises:
      InputError: anything but literals, and calls by keyword of mmjax's values; a value of another type or
        range than its field declares.
    """
    return _read(parse(text), hint, path, package)


def parse(text: str) -> ast.expr:
    """The syntax tree of an expression. Raises InputError if it is damaged, too long or nested too deep."""
    if len(text) > MAX_TEXT:
        raise InputError(
            f"expected the text of a value, at most {MAX_TEXT:,} characters, found {len(text):,}"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # of the parser, such as "invalid escape sequence"
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        raise InputError(
            f"expected the text of a value, as in experiment.txt, found {excerpt(text)}: {one_line(reason)}"
        ) from error
    level: list[ast.AST] = [tree]
    for _ in range(MAX_NESTING):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return tree
    raise InputError(f"expected a value nested at most {MAX_NESTING} deep, found {excerpt(text)}")


def _read(node: ast.expr, hint: Any, path: str, package: str) -> Any:
    """The value of a syntax tree, of the declared type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_union(node, hint, path, package)
    match node:
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return _read_items(items, hint, path, package, is_list=isinstance(node, ast.List))
        case ast.Dict(keys=keys, values=values):
            is_mapping = origin in (dict, collections.abc.Mapping)
            value_hint = arguments[1] if is_mapping else Any
            names = [key.value for key in keys if isinstance(key, ast.Constant)]
            if len(set(names)) < len(keys):
                raise InputError(f"{_at(path)} expects literals as keys, each once, found {_source(node)}")
            items = [
                _read(v, value_hint, _join(path, n), package) for n, v in zip(names, values, strict=True)
            ]
            found = dict(zip(names, items, strict=True))
        case ast.Call(func=func, args=[], keywords=keywords) if all(k.arg for k in keywords):
            return _construct(_find_class(ast.unparse(func), package), keywords, hint, path, package)
        case ast.Name(id="inf" | "nan"):  # how repr prints these floats
            found = float(node.id)
        case ast.Name() | ast.Attribute():
            found = find(ast.unparse(node), package)
            if isinstance(found, type) and _is_value_class(found):
                name = ast.unparse(node)
                raise InputError(f"{_at(path)} expects a value, found the class {name}: write {name}(...)")
        case _:
            found = _read_number(node)
    check_type(found, hint, path or "the value")
    return float(found) if _is_float(hint) else found


def _read_number(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value) if not isinstance(value, complex) and value is not Ellipsis:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return float("-inf")
    raise InputError(
        f"expected literals and calls of mmjax's classes by keyword, found {_source(node)}. If a "
        "run uses it, pass the experiment itself to open_run or evaluate_run"
    )


def _read_union(node: ast.expr, hint: Any, path: str, package: str) -> Any:
    """The value as the first of the declared types that it has, ints before floats."""
    faults = []
    for choice in sorted(typing.get_args(hint), key=_is_float):
        try:
            return _read(node, choice, path, package)
        except InputError as error:
            faults.append(error)
    shallow = f"{_at(path)} expects"
    deeper = [fault for fault in faults if not str(fault).startswith(shallow)]
    if deeper:
        raise deeper[0]
    found = str(faults[0]).partition(", found ")[2]
    raise InputError(f"{shallow} {type_name(hint)}, found {found}")


def _read_items(items: Sequence[ast.expr], hint: Any, path: str, package: str, *, is_list: bool) -> Any:
    """A tuple or list; a list where a tuple is declared becomes one."""
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if arguments[-1:] == (Ellipsis,) or origin is list:
        hints: Sequence[Any] = [arguments[0] if arguments else Any] * len(items)
    elif origin is tuple and len(arguments) == len(items):
        hints = arguments
    else:  # of another length or type, which the check below tells
        hints = [Any] * len(items)
    read = [_read(i, h, _join(path, n), package) for n, (i, h) in enumerate(zip(items, hints, strict=True))]
    found = read if is_list and origin is not tuple else tuple(read)
    check_type(found, hint, path or "the value")
    return found


def _construct(cls: type, keywords: Sequence[ast.keyword], hint: Any, path: str, package: str) -> Any:
    """An object of the class, once it and its fields have the declared types."""
    kind = typing.get_origin(hint) or hint
    if kind is not Any and isinstance(kind, type) and not issubclass(cls, kind):
        raise InputError(f"{_at(path)} expects {type_name(hint)}, found {type_name(cls)}")
    known, hints = {field.name: field for field in fields(cls)}, declared_types(cls)
    arguments: dict[str, Any] = {}
    for keyword in keywords:
        name = str(keyword.arg)
        if name in arguments:
            raise InputError(f"{_at(path)} expects the field {name!r} once, found it twice")
        if name not in known:
            raise unknown_field(path.split(".") if path else [], cls.__name__, name, known)
        arguments[name] = _read(keyword.value, hints[name], _join(path, name), package)
    missing = [name for name, f in known.items() if name not in arguments and not _has_default(f)]
    if missing:
        raise InputError(f"{_at(path)} expects the fields {missing} of {type_name(cls)}, found none of them")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:  # such as that of an abstract class
        raise InputError(
            f"{_at(path)}: {type_name(cls)} refuses its fields: {one_line(str(error))}"
        ) from error


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _find_class(dotted: str, package: str) -> type:
    found = find(dotted, package)
    if isinstance(found, type):
        return found
    raise InputError(f"expected a class of mmjax, found {one_line(dotted)!r}")


def find(dotted: str, package: str = "experiment") -> Any:
    """A class of values or modules, a constant (sharding.FSDP) or a dtype, by its printed name.

    Raises:
      InputError: experiments hold no such class.
    """
    parts = dotted.split(".")
    if parts[0] == "jnp" and len(parts) == 2 and parts[1] in DTYPES:
        import jax.numpy as jnp

        return getattr(jnp, parts[1])
    if len(parts) == 1:
        parts = [package, *parts]
    is_public = all(part.isidentifier() and not part.startswith("_") for part in parts)
    found = _resolve(parts) if is_public and parts[0] in VALUE_PACKAGES else None
    cls = found if isinstance(found, type) else type(found)
    if _is_value_class(cls):
        return found
    raise InputError(
        f"{one_line(dotted, 80)!r} is no class or constant of mmjax. Text can name only those; for a run "
        "that uses your own classes, pass the experiment itself to open_run or evaluate_run"
    )


def _is_value_class(cls: type) -> bool:
    """Whether experiments hold such values: a frozen Spec or a linen module of mmjax."""
    package = [*cls.__module__.split("."), ""]
    return (
        package[0] == "mmjax"
        and package[1] in VALUE_PACKAGES
        and dataclasses.is_dataclass(cls)
        and (issubclass(cls, Spec) or is_module(cls))
    )


def _resolve(parts: list[str]) -> Any:
    """The attribute of an mmjax module that the parts name; None if there is none."""
    *modules, attribute = parts
    name = ".".join(["mmjax", *modules])
    try:
        is_there = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a part before the last is no package
        return None
    return vars(importlib.import_module(name)).get(attribute) if is_there else None


def unknown_field(path: Sequence[str], owner: str, name: str, valid: Iterable[str]) -> InputError:
    """The error for a path that names no field; suggests the field with the closest name."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name[:100], valid, n=1)
    where = f"'{'.'.join(path)}' ({owner})" if path else owner
    hint = f"did you mean {close[0]!r}? " if close else ""
    return InputError(f"{where} has no field {excerpt(name)}: {hint}valid fields are {valid}")


def _is_float(hint: Any) -> bool:
    """Whether a field holds floats, so that the text `1` means 1.0."""
    return (typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint) is float


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _at(path: str) -> str:
    return f"'{path or 'the value'}'"


def _source(node: ast.AST) -> str:
    return excerpt(ast.unparse(node))
