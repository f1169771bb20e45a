"""Experiments: their texts and files, values that Python constructs, and schedules."""

import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny

from corpus.case import Case
from mmjax import data, evals, views
from mmjax.balance import CAGrad, DynamicWeightAverage, Scheduled
from mmjax.experiment import from_text, load, to_text
from mmjax.training import AdamW, Schedule


def with_text(change: Callable[[str], str]) -> Callable[[Path], Any]:
    """Reads the changed text of the tiny experiment."""
    return lambda folder: from_text(change(to_text(load(tiny.write(folder)))))


def _outside(folder: Path, text: str) -> Any:
    """Reads a text that names something with side effects; fails if they took place."""
    target = folder / "made"
    try:
        return from_text(text.format(target=str(target)))
    finally:
        assert not target.exists()


HARMFUL = [
    ("a checkpoint manager", "checkpoint.manager.Checkpoints(folder={target!r})"),
    ("a checkpoint manager by its package", "checkpoint.Checkpoints(folder={target!r})"),
    ("a run folder", "run.folder.RunFolder({target!r})"),
    ("a run folder by keyword", "run.folder.RunFolder(path={target!r})"),
    ("a session", "run.session.Session(experiment=1)"),
    ("an import", "__import__('os').makedirs({target!r})"),
    ("a dunder attribute", "().__class__.__bases__"),
    ("a private class", "data.loader._BatchMaker(mixture=1, seed=0, rows=0)"),
    ("a function", "data.local(name='x')"),
    ("a module of a module", "data.loader.np.save(file={target!r}, arr=1)"),
    ("a lambda", "(lambda: 1)()"),
    ("a comprehension", "[x for x in (1, 2)]"),
    ("a walrus", "(x := 1)"),
    ("an f-string", "f'{{1}}'"),
    ("a splat", "sharding.MeshShape(**{{'data': 1}})"),
    ("a class of the command line", "cli.doctor.Finding(fault=True, found='x', remedy='y')"),
]
TEXTS = [
    ("nothing", lambda text: "", "expected the text of a value"),
    ("half a text", lambda text: text[: len(text) // 2], "expected the text of a value"),
    ("10 MB", lambda text: text + " " * 10**7, "at most 1,048,576 characters"),
    ("10 MB of brackets", lambda text: "[" * 10**7, "at most 1,048,576 characters"),
    ("100,000 brackets", lambda text: "[" * 10**5, "expected the text of a value"),
    ("tuples in tuples", lambda text: "(" * 120 + "1" + ",)" * 120, "nested at most 100 deep"),
    ("100,000 signs", lambda text: "~" * 10**5 + "1", "expected the text of a value|nested at most"),
    ("a chain of attributes", lambda text: "a" + ".b" * 5000, "nested at most 100 deep|the text of a value"),
    (
        "a sum of 50,000 terms",
        lambda text: "1" + "+1" * 50_000,
        "nested at most 100 deep|the text of a value",
    ),
    ("a NUL", lambda text: text.replace("tiny", "ti\0ny", 1), "expected the text of a value"),
    ("a lone surrogate", lambda text: text.replace("tiny", "ti\udc80ny", 1), "expected the text of a value"),
    ("an escape of a terminal", lambda text: "\x1b[2J" + text, "expected the text of a value"),
    (
        "another class",
        lambda text: "sharding.MeshShape()",
        "expects experiment.Experiment, found sharding.MeshShape",
    ),
    ("a literal", lambda text: "3", "expects experiment.Experiment, found int 3"),
    ("two values", lambda text: text.strip() + ", 3", "expects experiment.Experiment, found tuple"),
    ("a statement", lambda text: "import os\n" + text, "expected the text of a value"),
    (
        "a checkpoint manager for the mesh",
        lambda text: re.sub(
            r"mesh=sharding.MeshShape\([^)]*\)", "mesh=checkpoint.Checkpoints(folder='/x')", text
        ),
        "'checkpoint.Checkpoints' is no class or constant of mmjax",
    ),
    (
        "a module for the mesh",
        lambda text: re.sub(r"mesh=sharding.MeshShape\([^)]*\)", "mesh=layers.GroupNorm()", text),
        "'mesh' expects sharding.MeshShape",
    ),
    (
        "a depth of 0",
        lambda text: text.replace("depth=1,", "depth=0,", 1),
        "depth' expects int from 1 to 1,000",
    ),
    (
        "an unknown field",
        lambda text: text.replace("seed=0,", "sead=0,", 1),
        "has no field 'sead': did you mean 'seed'",
    ),
    (
        "a missing field",
        lambda text: text.replace("num_steps=4,", "", 1),
        r"expects the fields \['num_steps'\]",
    ),
    (
        "linen's own field",
        lambda text: text.replace("fusion.Late(", "fusion.Late(parent=None, ", 1),
        "no field 'parent'",
    ),
]
VALUES = [
    (
        "NumPy's int of a batch",
        lambda: data.Mixture({}, np.int64(8)),
        "NumPy's int64: write the Python value, 8",
    ),
    (
        "NumPy's float of a rate",
        lambda: Scheduled(schedules={"a": ((0, np.float32(1)),)}),
        "'Scheduled.schedules.a.0.1'",
    ),
    (
        "a string of a size",
        lambda: data.ImageTransform("image", size="8x8"),
        "'ImageTransform.size' expects tuple",
    ),
    (
        "a list of a size",
        lambda: data.ImageTransform("image", size=[8, 8]),
        "'ImageTransform.size' expects tuple",
    ),
    (
        "a class as a source",
        lambda: data.Dataset(data.Npz, {}),
        "'Dataset.source' expects data.Source, found the class Npz",
    ),
    (
        "a path as a source",
        lambda: data.Dataset("x.npz", {}),
        "'Dataset.source' expects data.Source, found str 'x.npz'",
    ),
    (
        "a transform that is none",
        lambda: data.Dataset(data.Npz("x"), {"image": 3}),
        "'Dataset.streams.image' expects",
    ),
    (
        "50 MB as a name",
        lambda: data.ImageTransform("x" * 50_000_000, size=3),
        "'ImageTransform.size' expects",
    ),
    (
        "an infinite standard deviation",
        lambda: data.ImageTransform("x", size=(8, 8), std=math.inf),
        "above 0, finite",
    ),
    (
        "a NaN mean",
        lambda: data.ImageTransform("x", size=(8, 8), mean=math.nan),
        "'ImageTransform.mean' expects",
    ),
    (
        "silence for a second",
        lambda: data.AudioTransform("x", 16_000, seconds=0.0),
        "'AudioTransform.seconds' expects",
    ),
    (
        "no rate of samples",
        lambda: data.AudioTransform("x", 0, seconds=1.0),
        "'AudioTransform.sample_rate_hz' expects",
    ),
    (
        "a magnitude of 31",
        lambda: data.augment.RandAugment(magnitude=31),
        "magnitude' expects float from 0 to 30",
    ),
    (
        "no boxes",
        lambda: data.BoxesTransform("b", "l", ("a",), 0),
        "'BoxesTransform.max_boxes' expects int from 1",
    ),
    (
        "a negative distance",
        lambda: CAGrad(c=-0.1),
        "'CAGrad.c' expects float at least 0, finite, found float -0.1",
    ),
    ("no window", lambda: DynamicWeightAverage(window=0), "'DynamicWeightAverage.window' expects int from 1"),
    (
        "an evaluation of 0 rows",
        lambda: evals.Losses(data=data.Dataset(data.Npz("x"), {}), limit=0),
        "'Losses.limit' expects",
    ),
    (
        "all patches masked",
        lambda: views.MaskPatches("image", (2, 2), rate=1.0),
        "'MaskPatches.rate' expects float above 0",
    ),
    (
        "a word mask of no rate",
        lambda: views.MaskTokens("text", 100, rate=0.0),
        "'MaskTokens.rate' expects float above 0",
    ),
    (
        "mixing with alpha 0",
        lambda: views.Mixup(("image",), alpha=0.0),
        "'Mixup.alpha' expects float above 0",
    ),
]


def neighbours(folder: Path) -> str:
    """Two experiments that import different neighbours of the same name; then the state of the process."""
    names, before = [], list(sys.path)
    for name in ("one", "two"):
        (folder / name).mkdir()
        file = tiny.write(
            folder / name, {'name="tiny"': "name=NAME", "WIDTH = 16": "from common import NAME\nWIDTH = 16"}
        )
        (folder / name / "common.py").write_text(f"NAME = {name!r}\n")
        names.append(load(file).name)
    assert sys.path == before
    return " ".join(names)


def failing_file(source: str) -> Callable[[Path], Any]:
    def give(folder: Path) -> Any:
        (folder / "mine.py").write_text(source)
        return load(folder / "mine.py")

    return give


FILES = [
    ("no function experiment", "x = 1\n", "expected .*mine.py to define experiment"),
    ("another return value", "def experiment():\n    return 3\n", "found int"),
    ("an error", "def experiment():\n    return 1 / 0\n", "mine.py, line 2: ZeroDivisionError"),
    ("a missing neighbour", "from nosuch import trunk\n", "mine.py, line 1: ModuleNotFoundError"),
    ("an exit", "raise SystemExit(0)\n", "mine.py, line 1: SystemExit"),
    ("endless recursion", "def experiment():\n    return experiment()\n", "RecursionError"),
    ("a syntax error", "def experiment(:\n", "SyntaxError"),
    ("an error of 10 MB", "raise ValueError('x' * 10**7)\n", "mine.py, line 1: ValueError: x+"),
    ("an error with control characters", "raise ValueError('\\x1b[2J\\r')\n", r"ValueError: \\x1b\[2J\\r"),
    ("an error with an address", "raise ValueError(object())\n", "ValueError: <object object>"),
]


def rates(optimizer: Any, num_steps: int) -> np.ndarray:
    return np.array([optimizer.learning_rate(num_steps, step) for step in range(num_steps)])


def schedule_case(name: str, schedule: dict[str, Any], num_steps: int, expected: Sequence[float]) -> Case:
    def give(folder: Path) -> np.ndarray:
        return rates(AdamW(peak_learning_rate=1.0, schedule=Schedule(**schedule)), num_steps)

    return Case("schedules", name, "right", give, expected=np.array(expected), within=1e-6)


CASES: tuple[Case, ...] = (
    *(
        Case("experiment texts", f"names {name}", "refused", lambda f, t=text: _outside(f, t))
        for name, text in HARMFUL
    ),
    *(
        Case("experiment texts", name, "refused", with_text(change), message)
        for name, change, message in TEXTS
    ),
    *(
        Case("experiment values", name, "refused", lambda _, make=make: make(), message)
        for name, make, message in VALUES
    ),
    *(
        Case("experiment files", name, "refused", failing_file(source), message)
        for name, source, message in FILES
    ),
    Case(
        "experiment files", "a missing file", "refused", lambda f: load(f / "nosuch.py"), "found nothing at"
    ),
    Case("experiment files", "a folder", "refused", lambda f: load(f), "found a folder at"),
    Case("experiment files", "neighbours of one name", "right", neighbours, expected="one two"),
    Case(
        "experiment texts",
        "a text that was printed",
        "right",
        lambda f: from_text(to_text(load(tiny.write(f)))) == load(f / "tiny.py"),
        expected=True,
    ),
    schedule_case(
        "cosine ends at its final fraction",
        {"final_fraction": 0.1},
        5,
        [0.1 + 0.45 * (1 + math.cos(math.pi * n / 4)) for n in range(5)],
    ),
    schedule_case("cosine after a warm-up", {"warmup_steps": 2}, 5, [0, 0.5, 1, 0.5, 0]),
    schedule_case(
        "wsd comes down to its end",
        {"kind": "wsd", "warmup_steps": 1, "decay_fraction": 0.4},
        5,
        [0, 1, 1, 0.5, 0],
    ),
    schedule_case(
        "rsqrt ends at zero", {"kind": "rsqrt", "decay_fraction": 0.2}, 5, [1, 2**-0.5, 3**-0.5, 4**-0.5, 0]
    ),
    schedule_case("a run of one update", {}, 1, [1]),
)
