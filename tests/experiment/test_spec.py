"""Every field of every value class and module declares its type and range, and one checker enforces both."""

import collections.abc
import dataclasses
import importlib
import inspect
import math
import pkgutil
import sys
import types
import typing
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Interval

from mmjax.errors import InputError
from mmjax.experiment import reading, serialize
from mmjax.spec import Spec, check_type, declared_types, fields, is_module


def value_classes() -> list[type]:
    """All Specs and linen modules of mmjax's packages."""
    found = set()
    for package in reading.VALUE_PACKAGES:
        module = importlib.import_module(f"mmjax.{package}")
        names = [m.name for m in pkgutil.walk_packages(getattr(module, "__path__", []), f"mmjax.{package}.")]
        for member in [module, *map(importlib.import_module, names)]:
            for cls in vars(member).values():
                if isinstance(cls, type) and cls.__module__ == member.__name__:
                    if dataclasses.is_dataclass(cls) and (issubclass(cls, Spec) or is_module(cls)):
                        found.add(cls)
    return sorted(found, key=lambda cls: (cls.__module__, cls.__name__))


VALUE_CLASSES = value_classes()


def has_bare_number(hint: Any) -> bool:
    if typing.get_origin(hint) is Annotated:
        return False
    return hint in (int, float) or any(map(has_bare_number, typing.get_args(hint)))


@pytest.mark.parametrize("cls", VALUE_CLASSES, ids=lambda cls: f"{cls.__module__[6:]}.{cls.__name__}")
def test_every_number_declares_its_range(cls):
    hints = declared_types(cls)
    for field in fields(cls):
        assert not has_bare_number(hints[field.name]), (
            f"{field.name}: {hints[field.name]}: see mmjax/ranges.py"
        )
        assert hints[field.name] is not Any, field.name
        default = serialize._default(field)
        if default is not dataclasses.MISSING:
            check_type(default, hints[field.name], field.name)


def test_all_value_classes_were_found():
    names = {f"{cls.__module__.split('.')[1]}.{cls.__name__}" for cls in VALUE_CLASSES}
    assert len(VALUE_CLASSES) > 120
    assert {
        "data.Mixture",
        "views.MaskPatches",
        "objectives.InfoNCE",
        "encoders.ViT",
        "training.AdamW",
    } <= names


Small = Annotated[int, Interval(ge=1, le=5)]


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (Small, [1, 5], [0, 6, 2.0, True, "1", None, np.int64(3), math.nan, [1]]),
        (
            Annotated[float, Interval(gt=0, lt=math.inf)],
            [1e-300, 3],
            [0.0, -1, math.inf, math.nan, np.float64(1)],
        ),
        (Small | None, [None, 2], [0, False]),
        (Literal["a", 1], ["a", 1], ["b", True, 1.0]),
        (tuple[Small, str], [(1, "x")], [(1,), (1, "x", 2), [1, "x"], (0, "x"), "1x"]),
        (tuple[str, ...], [(), ("a",)], ["a", ["a"], (1,), None]),
        (dict[str, Small], [{}, {"a": 1}], [{1: 1}, {"a": 0}, [("a", 1)]]),
        (collections.abc.Mapping[str, Any], [types.MappingProxyType({"a": None})], [[], {1: 1}]),
        (collections.abc.Callable[[int], int], [len], [3]),
        (bool, [True], [1, 0.0, "True", np.True_]),
        (str, ["a"], [b"a", np.str_("a"), 1]),
        (Any, [object()], []),
    ],
)
def test_types_and_ranges(hint, good, bad):
    for value in good:
        check_type(value, hint, "field")
    for value in bad:
        with pytest.raises(InputError, match="'.*field.*' expects .*, found"):
            check_type(value, hint, "field")


def test_messages_name_path_range_and_value():
    from mmjax.layers import Transformer
    from mmjax.training import AdamW

    with pytest.raises(InputError, match=r"^'AdamW.b1' expects float at least 0, below 1, found float 2.0$"):
        AdamW(peak_learning_rate=1e-3, b1=2.0)
    with pytest.raises(InputError, match=r"^'AdamW.clip_norm' expects .* or None, found float -1.0$"):
        AdamW(peak_learning_rate=1e-3, clip_norm=-1.0)
    with pytest.raises(InputError, match="the class Transformer: write Transformer"):
        check_type(Transformer, Transformer, "trunk")


def test_a_subclass_that_does_not_call_super_is_checked():
    @dataclasses.dataclass(frozen=True)
    class Own(Spec):
        size: Small

        def __post_init__(self):
            self.size + 1  # would fail with a TypeError for None

    with pytest.raises(InputError, match="'Own.size' expects int from 1 to 5, found None"):
        Own(None)


EFFECTS = ("open", "os.", "socket.", "subprocess.", "shutil.", "exec", "import", "ctypes.", "urllib.")
watched: list[str] | None = None  # the events of the constructor that runs, None between constructors


def watch(event: str, arguments: tuple) -> None:
    if watched is not None and event.startswith(EFFECTS):
        is_ours = event == "import" and str(arguments[0]).split(".")[0] == "mmjax"
        watched.extend([] if is_ours else [f"{event} {arguments}"])


def example(hint: Any) -> Any:
    """Some value of a declared type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        low = arguments[1].ge if arguments[1].ge is not None else arguments[1].gt
        return low if arguments[0] is int else (low + (arguments[1].le or arguments[1].lt or 1)) / 2
    if origin in (typing.Union, types.UnionType):
        return example(arguments[0])
    if origin is Literal:
        return arguments[0]
    if origin is tuple and arguments[-1] is not Ellipsis:
        return tuple(map(example, arguments))
    if origin is tuple:
        return (example(arguments[0]),)
    if origin in (dict, collections.abc.Mapping):
        return {"x": example(arguments[1])}
    if hint is Any:
        return None
    if hint in (str, bool, dict):
        return {str: "x", bool: True, dict: {}}[hint]
    kinds = [cls for cls in VALUE_CLASSES if issubclass(cls, hint) and not inspect.isabstract(cls)]
    return construct(min(kinds, key=lambda cls: len(fields(cls))))


def construct(cls: type) -> Any:
    hints = declared_types(cls)
    required = [f.name for f in fields(cls) if serialize._default(f) is dataclasses.MISSING]
    return cls(**{name: example(hints[name]) for name in required})


@pytest.mark.parametrize(
    "cls",
    [c for c in VALUE_CLASSES if not inspect.isabstract(c)],
    ids=lambda c: f"{c.__module__[6:]}.{c.__name__}",
)
def test_constructors_have_no_side_effects(cls, tmp_path, monkeypatch):
    """No constructor that text can call opens a file, makes a folder or imports another package."""
    global watched
    monkeypatch.chdir(tmp_path)
    if watch not in hooks:
        sys.addaudithook(watch)
        hooks.append(watch)
    hints = declared_types(cls)
    required = [f.name for f in fields(cls) if serialize._default(f) is dataclasses.MISSING]
    try:
        arguments = {name: example(hints[name]) for name in required}
    except InputError:  # of a part, which its own test constructs
        arguments = {}
    watched = []
    try:
        cls(**arguments)
    except (InputError, TypeError):  # fields that do not fit each other, or too few
        pass
    finally:
        events, watched = watched, None
    assert events == []
    assert not list(tmp_path.iterdir())


hooks: list = []  # an audit hook cannot be removed


def test_the_watch_sees_effects(tmp_path):
    global watched
    if watch not in hooks:
        sys.addaudithook(watch)
        hooks.append(watch)
    watched = []
    (tmp_path / "x").mkdir()
    (tmp_path / "y").touch()
    events, watched = watched, None
    assert {event.split()[0] for event in events} >= {"os.mkdir", "open"}
