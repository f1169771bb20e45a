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
from typing import Any

from annotated_types import Interval

from mmjax import ranges
from mmjax.errors import InputError, excerpt


class Spec:
    """The base class of the frozen dataclasses that an experiment holds.

    Their fields are checked when they are constructed, before their own `__post_init__`. To construct one reads
    and writes nothing: files are opened later, by methods such as `open`.
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


def check_fields(value: Any, path: str = "", *, deep: bool = False) -> None:
    """Raises InputError if a field of a dataclass has another type or range than it declares.

    Args:
      path: dotted, of the value, for messages; empty: the name of its class.
      deep: also check the fields of dataclasses and modules that the value holds.
    """
    hints = declared_types(type(value))
    for field in fields(value):
        check_type(
            getattr(value, field.name), hints[field.name], f"{path or type(value).__name__}.{field.name}",
            deep=deep,
        )  # fmt: skip


def check_tree(value: Any) -> None:
    """`check_fields` of a value and of all values and modules that it holds, with paths that begin in it."""
    hints = declared_types(type(value))
    for field in fields(value):
        check_type(getattr(value, field.name), hints[field.name], field.name, deep=True)


def check_type(value: Any, hint: Any, path: str, *, deep: bool = False) -> None:
    """Raises InputError, which names `path`, unless the value has the type and range that `hint` declares."""
    if (fault := _fault(value, hint, path, deep)) is not None:
        raise InputError(f"'{fault.path}' expects {fault.expected}, found {fault.found}")


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
        except NameError:
            continue
    return Any  # such as a class that is local to a function


@functools.cache
def _type_checking_imports(module_name: str) -> dict[str, Any]:
    """The names that a module imports for type checkers only, under `if TYPE_CHECKING:`."""
    names: dict[str, Any] = {}
    module = sys.modules.get(module_name)
    for node in ast.parse(inspect.getsource(module)).body if module else ():
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


def _fault(value: Any, hint: Any, path: str, deep: bool) -> _Fault | None:
    """What is wrong with a value, or None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
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
    if deep and dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = declared_types(type(value))
        for field in fields(value):
            inner = f"{path}.{field.name}"
            if (fault := _fault(getattr(value, field.name), hints[field.name], inner, deep)) is not None:
                return fault
    return None


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
        yield from ((item, a, f"{path}.{i}") for i, (item, a) in enumerate(zip(value, arguments, strict=True)))
    elif origin in (tuple, list, set, frozenset, collections.abc.Sequence):
        yield from ((item, arguments[0], f"{path}.{i}") for i, item in enumerate(value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key, arguments[0], f"the key {excerpt(key)} of {path}"
            yield item, arguments[1], f"{path}.{excerpt(key) if not isinstance(key, str) else key}"


def _mismatch(value: Any, hint: Any, path: str) -> _Fault:
    return _Fault(path, type_name(hint), found(value))


def found(value: Any) -> str:
    """A value for a message, with its class unless its text shows that."""
    if isinstance(value, type):
        return f"the class {value.__name__}: did you mean {value.__name__}(...)?"
    if _is_numpy(value):
        return f"{type(value).__name__} of NumPy {excerpt(value)}: write the Python value, as .item() gives it"
    if value is None or isinstance(value, bool):
        return excerpt(value)
    if dataclasses.is_dataclass(value):
        return f"{type(value).__module__.removeprefix('mmjax.')}.{type(value).__name__}"
    return f"{type(value).__name__} {excerpt(value)}"


def type_name(hint: Any) -> str:
    """A declared type in words: "int from 1 to 1,000 or None"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        intervals = [ranges.describe(a) for a in arguments[1:] if isinstance(a, Interval)]
        return " ".join([type_name(arguments[0]), *intervals])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(type_name, arguments))
    if origin is typing.Literal:
        return f"one of {list(arguments)}" if len(arguments) > 1 else repr(arguments[0])
    if hint is None or hint is type(None):
        return "None"
    if arguments:
        inner = ("..." if a is Ellipsis else type_name(a) for a in arguments if not isinstance(a, list))
        return f"{type_name(origin)} of ({', '.join(inner)})"
    if isinstance(hint, type):
        is_ours = hint.__module__.split(".")[0] == "mmjax"
        return f"{hint.__module__.split('.')[1]}.{hint.__name__}" if is_ours and "." in hint.__module__ else hint.__name__
    return str(hint).replace("typing.", "")
