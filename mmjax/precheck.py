"""Refuses a wrong override before anything heavy is imported, by reading the experiment's source.

Nothing is executed. The walk follows ``experiment()``'s return value through calls of local functions and of
mmjax's classes, whose fields are read from the package's own source. It speaks only when it is certain; where
the source is too clever to follow it stays silent, and ``mmjax.experiment.load`` checks the real value.
"""

import ast
import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmjax.errors import InputError
from mmjax.overrides import missing_file, parse, split, unknown_field

PACKAGE = Path(__file__).parent
# Bases that add no fields of their own worth overriding.
EMPTY_BASES = {"nn.Module", "linen.Module", "object", "abc.ABC", "ABC", "Protocol", "Generic"}


def check(path: str | Path, overrides: Sequence[str]) -> None:
    """Raises InputError for an override that is certainly wrong, in the words of ``override``."""
    path = Path(path)
    if not path.is_file():
        raise missing_file(path)
    assignments = [split(assignment) for assignment in overrides]
    try:
        module = Module(path)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    found = module.find("experiment")
    root = _returned(found, module, {}) if isinstance(found, ast.FunctionDef) else None
    for index, (names, text) in enumerate(assignments):
        replaced = any(earlier == names[: len(earlier)] for earlier, _ in assignments[:index])
        if root is not None and not replaced:
            _walk(root, names, text, [])


@dataclasses.dataclass(frozen=True)
class Node:
    """An expression, where it stands, and what its local names mean."""

    expression: ast.expr
    module: "Module"
    names: dict[str, "Node | None"]  # None: bound, but not to be followed


class Module:
    """A source file's top-level names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, ast.AST | tuple[str, str | None] | None] = {}
        tree = ast.parse(path.read_bytes())
        for statement in tree.body:
            for name, meaning in _bindings(statement):
                # A name that is bound twice is not followed.
                self.names[name] = None if name in self.names else meaning
        for node in ast.walk(tree):  # imports for type checkers, or inside a function
            if isinstance(node, ast.ImportFrom):
                for name, meaning in _bindings(node):
                    self.names.setdefault(name, meaning)

    def find(self, dotted: str) -> ast.AST | None:
        """The class, function or value that a dotted name means here; None if that is not certain."""
        located = self.locate(dotted)
        return located[0] if located else None

    def locate(self, dotted: str, depth: int = 0) -> tuple[ast.AST, "Module"] | None:
        """As ``find``, with the module in which it stands."""
        first, _, rest = dotted.partition(".")
        meaning = self.names.get(first)
        if isinstance(meaning, tuple) and depth < 10:  # imported
            source, name = meaning
            parts = [part for part in [*source.split("."), name or "", *rest.split(".")] if part]
            for end in range(len(parts) - 1, 0, -1):
                module = _mmjax_module(tuple(parts[:end]))
                if module is not None:
                    return module.locate(".".join(parts[end:]), depth + 1)
            return None
        if isinstance(meaning, ast.AST) and not rest:
            return meaning, self
        return None


def _bindings(statement: ast.stmt) -> Iterator[tuple[str, ast.AST | tuple[str, str | None] | None]]:
    match statement:
        case ast.FunctionDef(name=name, decorator_list=[]) | ast.ClassDef(name=name):
            yield name, statement
        case ast.Import(names=aliases):
            for alias in aliases:
                if alias.asname or "." not in alias.name:
                    yield alias.asname or alias.name, (alias.name, None)
        case ast.ImportFrom(module=str(source), names=aliases, level=0):
            for alias in aliases:
                yield alias.asname or alias.name, (source, alias.name)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, value
        case _:  # whatever else binds names, in loops and branches say, hides them
            for inner in ast.walk(statement):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    yield inner.id, None


@functools.cache
def _mmjax_module(parts: tuple[str, ...]) -> Module | None:
    if parts[0] != "mmjax":
        return None
    place = PACKAGE.joinpath(*parts[1:])
    for file in (place / "__init__.py", place.with_suffix(".py")):
        if file.is_file():
            return Module(file)
    return None


def _walk(node: Node | None, names: Sequence[str], text: str, path: list[str]) -> None:
    node = _resolve(node)
    if node is None:
        return
    name, rest = names[0], names[1:]
    match node.expression:
        case ast.Call(func=func):
            cls, home, direct = _class_called(ast.unparse(func), node.module)
            fields = _fields(cls, home) if cls and home else None
            if cls is None or fields is None:
                return
            if name not in fields:
                raise unknown_field(path, cls.name, name, fields)
            child, hint = _argument(node, name, fields) if direct else (None, fields[name][0].annotation)
            if rest:
                _walk(child, rest, text, [*path, name])
            else:
                _check_type(child, hint, text, [*path, name])
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            found = {
                str(key.value): v
                for key, v in zip(keys, values, strict=True)
                if isinstance(key, ast.Constant)
            }
            if name not in found:
                raise unknown_field(path, "dict", name, found)
            if rest:
                _walk(dataclasses.replace(node, expression=found[name]), rest, text, [*path, name])
        case ast.Tuple(elts=items) if not any(isinstance(item, ast.Starred) for item in items):
            if not name.isdecimal() or int(name) >= len(items):
                raise unknown_field(path, "tuple", name, map(str, range(len(items))))
            if rest:
                _walk(dataclasses.replace(node, expression=items[int(name)]), rest, text, [*path, name])


def _class_called(dotted: str, module: Module) -> tuple[ast.ClassDef | None, Module | None, bool]:
    """The class that a call makes one of, by its name (True) or by a class method that returns it (False)."""
    located = module.locate(dotted)
    if located and isinstance(located[0], ast.ClassDef):
        return located[0], located[1], True
    owner, _, method = dotted.rpartition(".")
    located = module.locate(owner)
    if located and isinstance(located[0], ast.ClassDef):
        cls, home = located[0], located[1]
        for statement in cls.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == method and statement.returns:
                if ast.unparse(statement.returns).strip("'") == cls.name:
                    return cls, home, False
    return None, None, False


def _resolve(node: Node | None, depth: int = 0) -> Node | None:
    """Follows names and calls of local functions to the call, dict, tuple or constant that they stand for."""
    if node is None or depth > 20:
        return None
    expression = node.expression
    if isinstance(expression, ast.Name) and expression.id in node.names:
        return _resolve(node.names[expression.id], depth + 1)
    if isinstance(expression, ast.Name | ast.Attribute):
        located = node.module.locate(ast.unparse(expression))
        if located and isinstance(located[0], ast.expr):
            return _resolve(Node(located[0], located[1], {}), depth + 1)
        return None
    if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name):
        if expression.func.id in node.names:
            return None
        located = node.module.locate(expression.func.id)
        if located and isinstance(located[0], ast.FunctionDef):
            arguments = _bind(located[0], node)
            return None if arguments is None else _resolve(_returned(*located, arguments), depth + 1)
    return node


def _bind(function: ast.FunctionDef, call: Node) -> dict[str, Node | None] | None:
    """What a call gives each parameter; None if it cannot be told."""
    expression, spec = call.expression, function.args
    assert isinstance(expression, ast.Call)
    starred = any(isinstance(a, ast.Starred) for a in expression.args) or not all(
        k.arg for k in expression.keywords
    )
    if spec.vararg or spec.kwarg or starred:
        return None
    positional = [*spec.posonlyargs, *spec.args]
    bound: dict[str, Node | None] = {a.arg: None for a in [*positional, *spec.kwonlyargs]}
    defaults = dict(zip([a.arg for a in positional][::-1], spec.defaults[::-1], strict=False))
    defaults |= {a.arg: d for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d is not None}
    home = call.module.locate(function.name)
    for name, default in defaults.items():
        bound[name] = Node(default, home[1], {}) if home else None
    given = dict(zip([a.arg for a in positional], expression.args, strict=False))
    given |= {str(k.arg): k.value for k in expression.keywords}
    return bound | {name: dataclasses.replace(call, expression=value) for name, value in given.items()}


def _returned(function: ast.FunctionDef, module: Module, arguments: dict[str, Node | None]) -> Node | None:
    """The one expression that a function returns; its local names are followed if bound just once."""
    inside = [node for statement in function.body for node in ast.walk(statement)]
    returns = [node for node in inside if isinstance(node, ast.Return)]
    if (
        function.decorator_list
        or len(returns) != 1
        or returns[0] not in function.body
        or returns[0].value is None
    ):
        return None
    names: dict[str, Node | None] = dict(arguments)
    hidden = {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store | ast.Del)}
    hidden |= {n.name for n in inside if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    names |= dict.fromkeys(hidden)
    # A container may be changed in place through these.
    changed = {
        n.value.id
        for n in inside
        if isinstance(n, ast.Attribute | ast.Subscript) and isinstance(n.value, ast.Name)
    }
    stores = [n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    for statement in function.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                if stores.count(name) == 1 and name not in arguments and name not in changed:
                    names[name] = Node(value, module, dict(names))
    return Node(returns[0].value, module, names)


def _fields(
    cls: ast.ClassDef, home: Module, depth: int = 0
) -> dict[str, tuple[ast.AnnAssign, Module]] | None:
    """A dataclass's or linen module's fields in order, its bases' first; None if a base is not ours."""
    fields: dict[str, tuple[ast.AnnAssign, Module]] = {}
    for base in reversed(cls.bases):
        name = ast.unparse(base)
        if name.partition("[")[0] in EMPTY_BASES:
            continue
        located = home.locate(name)
        if located is None or not isinstance(located[0], ast.ClassDef) or depth > 10:
            return None
        inherited = _fields(*located, depth + 1)
        if inherited is None:
            return None
        fields |= inherited
    for statement in cls.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            annotation = ast.unparse(statement.annotation)
            made_later = statement.value is not None and "init=False" in ast.unparse(statement.value).replace(
                " ", ""
            )
            if "ClassVar" not in annotation and not made_later:
                fields[statement.target.id] = (statement, home)
    return fields


def _argument(
    call: Node, name: str, fields: dict[str, tuple[ast.AnnAssign, Module]]
) -> tuple[Node | None, ast.expr]:
    """What a call of a class gives a field (or the field's default), and the field's annotation."""
    assert isinstance(call.expression, ast.Call)
    declared, home = fields[name]
    given = {k.arg: k.value for k in call.expression.keywords}
    position = list(fields).index(name)
    positional = call.expression.args
    if name in given:
        return dataclasses.replace(call, expression=given[name]), declared.annotation
    if None in given or any(isinstance(argument, ast.Starred) for argument in positional):
        return None, declared.annotation
    if position < len(positional):
        return dataclasses.replace(call, expression=positional[position]), declared.annotation
    return _default(declared, home), declared.annotation


def _default(declared: ast.AnnAssign, home: Module) -> Node | None:
    match declared.value:
        case ast.Call(func=ast.Attribute(attr="field") | ast.Name(id="field"), keywords=keywords):
            given = {k.arg: k.value for k in keywords}
            if "default_factory" in given:
                return Node(ast.Call(func=given["default_factory"], args=[], keywords=[]), home, {})
            return Node(given["default"], home, {}) if "default" in given else None
        case ast.expr() as value:
            return Node(value, home, {})
    return None


def _check_type(child: Node | None, annotation: ast.expr, text: str, path: list[str]) -> None:
    """Parses the text where both the field's type and its present value can be read off the source."""
    child = _resolve(child)
    try:
        hint = _hint(annotation)
        present = ast.literal_eval(child.expression) if child else None
    except (ValueError, TypeError):
        return
    if child is not None:
        parse(text, hint, present, path)


def _hint(annotation: ast.expr) -> object:
    """The type that an annotation of plain types means; ValueError for any other."""
    match annotation:
        case ast.Name(id="int" | "float" | "bool" | "str" as name):
            return {"int": int, "float": float, "bool": bool, "str": str}[name]
        case ast.Constant(value=None):
            return type(None)
        case ast.Constant(value=types.EllipsisType()):
            return ...
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return typing.Union[_hint(left), _hint(right)]  # noqa: UP007 - made of values, not written
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=items)):
            return tuple.__class_getitem__(tuple(_hint(item) for item in items))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=items):
            values = ast.literal_eval(items)
            return typing.Literal.__getitem__(values if isinstance(values, tuple) else (values,))
    raise ValueError(ast.unparse(annotation))
