"""Values whose fields are checked: each against its declared type and range, where it is made.

A field declares its range in its annotation (`mmjax.ranges`). The same checker judges a value that Python
constructs, the whole tree of an experiment, and text before anything is constructed from it.
"""

import ast
import collections.abc
import dataclasses
import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from annotated_types import Interval

from mmjax import ranges
from mmjax.errors import InputError, excerpt


class Spec:
    """The base class of the frozen dataclasses that an experiment holds.

    Their fields are checked when they are constructed, before their own `__post_init__`. Constructing one
    reads and writes no file: that is left to methods such as `open`.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("__post_init__")
        if own is not None:
            # Wrapped here, so that no class can forget to call super().__post_init__().
            @functools.wraps(own)
            def check_then_init(self):
                check_fields(self)
                own(self)

            cls.__post_init__ = check_then_init


def check_fields(value: Any) -> None:
    """Raises InputError if a field of a dataclass has another type or range than it declares."""
    _raise(_fields_fault(value, f"{type(value).__name__}.", deep=False))


def check_tree(value: Any) -> None:
    """`check_fields` of a value and of all values and modules that it holds, with paths that begin in it."""
    _raise(_fields_fault(value, "", deep=True))


def check_type(value: Any, hint: Any, path: str) -> None:
    """Raises InputError, which names `path`, unless the value has the type and range that `hint` declares."""
    _raise(_fault(value, hint, path, deep=False))


def fits(value: Any, hint: Any) -> bool:
    """Whether the value has the type and range that `hint` declares."""
    return _fault(value, hint, "", deep=False) is None


def is_module(value: Any) -> bool:
    """Whether a value is a linen module, or a class of modules. Does not import flax."""
    bases = (value if isinstance(value, type) else type(value)).__mro__
    return any(base.__module__.startswith("flax.linen") and base.__name__ == "Module" for base in bases)


def fields(value: Any) -> tuple[dataclasses.Field, ...]:
    """A dataclass's fields, those of linen (`parent`, `name`) left out and keyword-only ones last."""
    return _fields(value if isinstance(value, type) else type(value))


@functools.cache
def _fields(cls: type) -> tuple[dataclasses.Field, ...]:
    hidden = {"parent", "name"} if is_module(cls) else set()
    shown = [f for f in dataclasses.fields(cls) if f.init and f.name not in hidden]
    return tuple(sorted(shown, key=lambda f: f.kw_only))


@functools.cache
def declared_types(cls: type) -> dict[str, Any]:
    """{field: declared type, with its range}, of a dataclass and its bases. `Any`: it cannot be resolved."""
    hints = {}
    for base in reversed(cls.__mro__):
        for name, hint in base.__dict__.get("__annotations__", {}).items():
            hints[name] = _resolve(hint, base.__module__)
    return hints


def _resolve(hint: Any, module_name: str) -> Any:
    """The type that an annotation names, where it is (or holds) a string."""
    module = sys.modules.get(module_name)
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    for names in (lambda: {}, lambda: _type_checking_imports(module_name)):
        try:
            known = vars(module) if module else {}
            return typing.get_type_hints(holder, known, names(), include_extras=True)["hint"]
        except (NameError, AttributeError, TypeError, SyntaxError):
            continue
    return Any  # such as the name of a class that is local to a function


@functools.cache
def _type_checking_imports(module_name: str) -> dict[str, Any]:
    """The names that a module imports for type checkers only, under `if TYPE_CHECKING:`."""
    names: dict[str, Any] = {}
    try:
        source = inspect.getsource(sys.modules[module_name])
    except (KeyError, OSError, TypeError):  # typed into an interpreter or a notebook
        return names
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for inner in node.body:
                if isinstance(inner, ast.ImportFrom) and inner.module and not inner.level:
                    imported = importlib.import_module(inner.module)
                    names |= {a.asname or a.name: getattr(imported, a.name) for a in inner.names}
    return names


@dataclasses.dataclass(frozen=True)
class _Fault:
    path: str
    expected: str
    found: str


def _raise(fault: _Fault | None) -> None:
    if fault is not None:
        raise InputError(f"'{fault.path}' expects {fault.expected}, found {fault.found}")


def _fields_fault(value: Any, prefix: str, deep: bool) -> _Fault | None:
    """The first fault of a dataclass's fields."""
    hints = declared_types(type(value))
    faults = (_fault(getattr(value, f.name), hints[f.name], prefix + f.name, deep) for f in fields(value))
    return next((fault for fault in faults if fault is not None), None)


def _fault(value: Any, hint: Any, path: str, deep: bool) -> _Fault | None:
    """The first fault of a value, or None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _range_fault(value, hint, path, deep)
    if hint is Any or isinstance(hint, str | typing.TypeVar):
        return None
    if origin in (typing.Union, types.UnionType):
        faults = [_fault(value, argument, path, deep) for argument in arguments]
        if None in faults:
            return None
        deeper = [fault for fault in faults if fault is not None and fault.path != path]
        return deeper[0] if deeper else _mismatch(value, hint, path)
    if origin is typing.Literal:
        same = any(value is a or (type(value) is type(a) and value == a) for a in arguments)
        return None if same else _mismatch(value, hint, path)
    if hint is None or hint is type(None):
        return None if value is None else _mismatch(value, hint, path)
    if not _has_class(value, origin or hint):
        return _mismatch(value, hint, path)
    for item, item_hint, item_path in _items(value, hint, path):
        if item_hint is _NO_ITEM:
            return _mismatch(value, hint, path)
        if (fault := _fault(item, item_hint, item_path, deep)) is not None:
            return fault
    is_value = deep and dataclasses.is_dataclass(value) and not isinstance(value, type)
    return _fields_fault(value, f"{path}.", deep) if is_value else None


def _range_fault(value: Any, hint: Any, path: str, deep: bool) -> _Fault | None:
    base, *metadata = typing.get_args(hint)
    fault = _fault(value, base, path, deep)
    if fault is not None:
        return fault if fault.path != path else _mismatch(value, hint, path)
    intervals = [item for item in metadata if isinstance(item, Interval)]
    inside = all(ranges.contains(interval, value) for interval in intervals)
    return None if inside else _mismatch(value, hint, path)


def _has_class(value: Any, kind: Any) -> bool:
    """Whether the value is of the class; an int is a float, a bool is no number, and no NumPy scalar is."""
    if kind in (int, float):
        # A NumPy scalar prints and compares otherwise: an experiment's text could not be read back.
        is_number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        return is_number and not _is_numpy(value)
    if kind is collections.abc.Callable:
        return callable(value)
    if kind is dict:
        kind = Mapping
    if not isinstance(kind, type):
        return True
    if isinstance(value, type):  # a class has the methods of a Protocol, and is no value
        return kind in (type, object)
    return isinstance(value, kind) and not (kind in (str, bool) and _is_numpy(value))


def _is_numpy(value: Any) -> bool:
    return type(value).__module__ == "numpy"


_NO_ITEM = object()


def _items(value: Any, hint: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    """(item, its declared type, its path) of a container; `_NO_ITEM` where a tuple has another length."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if not arguments:
        return
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            yield value, _NO_ITEM, path
            return
        yield from (
            (item, a, f"{path}.{i}") for i, (item, a) in enumerate(zip(value, arguments, strict=True))
        )
    elif origin in (tuple, list, set, frozenset, collections.abc.Sequence):
        yield from ((item, arguments[0], f"{path}.{i}") for i, item in enumerate(value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key, arguments[0], f"the key {excerpt(key)} of {path}"
            yield item, arguments[1], f"{path}.{excerpt(key) if not isinstance(key, str) else key}"


def _mismatch(value: Any, hint: Any, path: str) -> _Fault:
    return _Fault(path, type_name(hint), _found(value))


def _found(value: Any) -> str:
    """A value for a message, with its class."""
    if isinstance(value, type):
        return f"the class {value.__name__}: write {value.__name__}(...)"
    if _is_numpy(value) and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return f"NumPy's {type(value).__name__}: write the Python value, {excerpt(value.item())}"
    if value is None:
        return "None"
    if dataclasses.is_dataclass(value):
        return type_name(type(value))
    return f"{type(value).__name__} {excerpt(value)}"


def type_name(hint: Any, *, with_range: bool = True) -> str:
    """A declared type in words.

    >>> type_name(Annotated[int, Interval(ge=1, le=9)] | None), type_name(tuple[ranges.Size, ranges.Size])
    ('int from 1 to 9 or None', 'tuple[int, int]')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        intervals = [ranges.describe(a) for a in arguments[1:] if isinstance(a, Interval) and with_range]
        return " ".join([type_name(arguments[0]), *intervals])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(argument, with_range=with_range) for argument in arguments)
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if hint is None or hint is type(None):
        return "None"
    if origin is collections.abc.Callable:
        return "a function"
    if arguments:
        inner = ("..." if a is Ellipsis else type_name(a, with_range=False) for a in arguments)
        return f"{type_name(origin)}[{', '.join(inner)}]"
    if not isinstance(hint, type):
        return str(hint).removeprefix("typing.")
    package = hint.__module__.split(".")
    return f"{package[1]}.{hint.__name__}" if package[0] == "mmjax" and len(package) > 1 else hint.__name__
