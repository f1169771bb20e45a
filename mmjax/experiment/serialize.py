"""Values -> text: literals, dicts, tuples and calls of classes, and the differences of two texts."""

import ast
import dataclasses
import enum
import hashlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax.errors import InputError
from mmjax.experiment.reading import DTYPES, find, parse
from mmjax.spec import fields

WIDTH = 100  # characters; a value that fits is printed on one line


def to_text(value: Any, *, defaults: bool = True) -> str:
    """A value as an expression with one field per line. `from_text` reads it if the classes are mmjax's.

    Args:
      defaults: also print fields that have their default value.

    >>> from mmjax.sharding import MeshShape
    >>> print(to_text(MeshShape(fsdp=8)), end="")
    sharding.MeshShape(
        data=-1,
        fsdp=8,
        tensor=1,
        sequence=1,
        slices=1,
    )
    """
    return _print(value, 0, defaults) + "\n"


def _print(value: Any, indent: int, defaults: bool) -> str:
    import numpy as np

    match value:
        case None | bool() | int() | float() | str() | bytes() if not isinstance(
            value, enum.Enum | np.generic
        ):
            return repr(value)
        case enum.Enum():
            return f"{_qualified_name(type(value))}.{value.name}"
        case Mapping():
            return _block("{", [(f"{key!r}: ", item) for key, item in value.items()], "}", indent, defaults)
        case tuple() if not dataclasses.is_dataclass(value):
            end = ",)" if len(value) == 1 else ")"
            return _block("(", [("", item) for item in value], end, indent, defaults)
        case list():
            return _block("[", [("", item) for item in value], "]", indent, defaults)
        case np.ndarray():
            digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
            return f"array(shape={value.shape}, dtype={value.dtype.name!r}, sha256={digest!r})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        printed = [f for f in fields(value) if defaults or getattr(value, f.name) != _default(f)]
        parts = [(f"{f.name}=", getattr(value, f.name)) for f in printed]
        return _block(_qualified_name(type(value)) + "(", parts, ")", indent, defaults)
    name = _dtype_name(value)
    if name is not None:
        return f"jnp.{name}"
    if callable(value) and "<" not in value.__qualname__:  # such as an activation function
        return f"{value.__module__}.{value.__qualname__}"
    raise InputError(
        "an experiment holds literals, dicts, tuples, dataclasses and modules, found "
        f"{type(value).__name__}: {value!r}"
    )


def _default(field: dataclasses.Field) -> Any:
    has_factory = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if has_factory else field.default


def _block(start: str, parts: list[tuple[str, Any]], end: str, indent: int, defaults: bool) -> str:
    nested = any(dataclasses.is_dataclass(item) for _, item in parts)
    if not nested:
        line = start + ", ".join(prefix + _print(item, indent, defaults) for prefix, item in parts) + end
        if (
            "\n" not in line
            and 4 * indent + len(line) <= WIDTH
            and (len(parts) < 2 or not start.endswith("(") or start == "(")
        ):
            return line
    pad = "    " * (indent + 1)
    if (
        not nested
        and parts
        and all(not prefix and isinstance(item, str | int | float) for prefix, item in parts)
    ):
        return (
            f"{start}\n{_fill([repr(item) for _, item in parts], pad)}\n" + "    " * indent + end.lstrip(",")
        )
    lines = [f"{pad}{prefix}{_print(item, indent + 1, defaults)},\n" for prefix, item in parts]
    return start + "\n" + "".join(lines) + "    " * indent + end.lstrip(",")


def _fill(items: list[str], pad: str) -> str:
    """Puts as many items on each line as fit."""
    lines = [pad]
    for item in items:
        if len(lines[-1]) + len(item) > WIDTH and lines[-1] != pad:
            lines.append(pad)
        lines[-1] += f"{item}, "
    return "\n".join(line.rstrip() for line in lines)


def _dtype_name(value: Any) -> str | None:
    """The name of a dtype, also of jnp.bfloat16, which is neither a type nor a dtype; else None."""
    import numpy as np

    if not (isinstance(value, np.dtype) or type(value).__name__ == "_ScalarMeta" or isinstance(value, type)):
        return None
    try:
        name = np.dtype(value).name
    except TypeError:
        return None
    name = "bool_" if name == "bool" else name
    return name if name in DTYPES else None


def _qualified_name(cls: type) -> str:
    """The class by the shortest mmjax module that exports it: "encoders.ViT" for mmjax.encoders.image.ViT."""
    parts = cls.__module__.split(".")
    if parts[0] != "mmjax" or "<" in cls.__qualname__:
        return f"{cls.__module__}.{cls.__qualname__}".replace("<locals>.", "")
    if cls.__module__ == "mmjax.experiment.value":
        return cls.__name__
    for end in range(2, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:end]))
        if vars(module).get(cls.__name__) is cls if module else False:
            return ".".join([*parts[1:end], cls.__name__])
    return ".".join([*parts[1:], cls.__qualname__])


def changed_fields(old: str, new: str) -> dict[str, tuple[str, str]]:
    """The fields in which two texts differ: {"model.trunk.depth": ("2", "5")}; "(absent)" where one has none.

    A field that a text lacks counts as its default: an older version, which did not have it, wrote the text.

    Raises:
      InputError: a text is damaged.
    """
    before, after = (dict(_flatten(_with_defaults(parse(text)))) for text in (old, new))
    pairs = {
        path: (before.get(path, "(absent)"), after.get(path, "(absent)")) for path in {**before, **after}
    }
    return {path: (was, becomes) for path, (was, becomes) in pairs.items() if not _is_same(was, becomes)}


def _is_same(first: str, second: str) -> bool:
    """Whether two texts mean the same value: 1 and 1.0 do, since text is read as the type of its field."""
    try:
        return first == second or ast.literal_eval(first) == ast.literal_eval(second)
    except (ValueError, SyntaxError):  # no literals, such as classes
        return False


def _with_defaults(node: ast.expr) -> ast.expr:
    """The expression with all fields of mmjax's dataclasses; other classes stay as they are."""
    for call in [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]:
        try:
            cls = find(ast.unparse(call.func))
        except InputError:
            continue
        present = {keyword.arg for keyword in call.keywords}
        for field in fields(cls) if isinstance(cls, type) else ():
            default = _default(field)
            if field.name not in present and default is not dataclasses.MISSING:
                call.keywords.append(ast.keyword(field.name, parse(to_text(default))))
    return node


def _flatten(node: ast.expr, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Call(func=func, keywords=keywords) if keywords:
            if path:
                yield ".".join(path), ast.unparse(func)
            for keyword in keywords:
                yield from _flatten(keyword.value, (*path, str(keyword.arg)))
        case ast.Dict(keys=keys, values=values) if keys:
            for key, value in zip(keys, values, strict=True):
                yield from _flatten(value, (*path, str(ast.literal_eval(key)) if key else "**"))
        case ast.Tuple(elts=items) if any(isinstance(item, ast.Call | ast.Dict) for item in items):
            for index, item in enumerate(items):
                yield from _flatten(item, (*path, str(index)))
        case _:
            yield ".".join(path), ast.unparse(node)
