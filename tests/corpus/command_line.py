"""The command line: flags, values, streams, environment."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny

from corpus.case import Case, command
from mmjax.errors import InputError
from mmjax.training.accelerators import find_accelerator

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> Callable[[Path], Any]:
    """Runs `mmjax ARGUMENTS` in this process; EXPERIMENT stands for the file of the tiny experiment."""

    def give(folder: Path) -> str:
        file = str(tiny.write(folder)) if "EXPERIMENT" in arguments else ""
        return command(*(file if argument == "EXPERIMENT" else argument for argument in arguments))

    return give


def shell(line: str, **variables: str | None) -> Callable[[Path], Any]:
    """Runs a shell line in its own process, in which $MMJAX is the command; None unsets a variable.

    The result is the standard output; exit code 2 with one line of message and no traceback is a refusal.
    """

    def give(folder: Path) -> str:
        tiny.write(folder)
        environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "MMJAX": f"{sys.executable} -m mmjax"}
        environment = {k: v for k, v in (environment | variables).items() if v is not None}
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, 2) or "Traceback" in done.stderr:
            raise AssertionError(f"exit code {done.returncode}: {done.stderr[-2000:]}")
        if done.returncode == 2:
            said = (done.stderr + done.stdout).strip("\n")
            if "\n" in said:
                raise AssertionError(f"more than one line: {said}")
            raise InputError(said)
        return done.stdout

    return give


ESCAPES = "\x1b[31mred\x07\r\x9b2J"
FLAGS = [
    ("no verb", (), "the following arguments are required: VERB"),
    ("an unknown verb", ("trian",), "invalid choice: 'trian'"),
    ("an unknown flag", ("train", "EXPERIMENT", "--gpus=8"), "unrecognized arguments: --gpus=8"),
    ("control characters in a flag", ("train", "x.py", "--" + ESCAPES), r"--\\x1b\[31mred\\x07\\r\\x9b2J"),
    ("control characters in a verb", (ESCAPES,), r"invalid choice"),
    ("100,000 letters of a flag", ("train", "x.py", "--" + "x" * 100_000), "unrecognized arguments: --xxx"),
    ("a step of letters", ("export", "run", "x.safetensors", "--step", "last"), "found 'last'"),
    ("a negative step", ("export", "run", "x.safetensors", "--step=-5"), "found '-5'"),
    (
        "5,000 digits of a step",
        ("export", "run", "x.safetensors", "--step", "9" * 5000),
        "the step of a checkp",
    ),
    ("no devices", ("plan", "x.py", "--devices", "0"), "a number from 1 to 4096, found '0'"),
    ("10^23 devices", ("plan", "x.py", "--devices", "1" + "0" * 23), "a number from 1 to 4096"),
    ("superscripts of devices", ("plan", "x.py", "--devices", "8²"), "a number from 1 to 4096"),
    ("half a device", ("plan", "x.py", "--devices", "0.5"), "a number from 1 to 4096, found '0.5'"),
    ("a memory without a unit", ("plan", "x.py", "--devices", "1", "--hbm", "80"), "a size such as 80GiB"),
    ("a memory of 0", ("plan", "x.py", "--devices", "1", "--hbm", "0GiB"), "a size such as 80GiB"),
    (
        "5,000 digits of memory",
        ("plan", "x.py", "--devices", "1", "--hbm", "9" * 5000 + "GiB"),
        "a size such as",
    ),
    ("an infinite peak", ("plan", "x.py", "--devices", "1", "--peak", "inf"), "a number above 0"),
    ("a negative bandwidth", ("plan", "x.py", "--devices", "1", "--bandwidth=-1"), "a number above 0"),
    ("a bandwidth of NaN", ("plan", "x.py", "--devices", "1", "--slow-bandwidth", "nan"), "a number above 0"),
    (
        "a device of no data sheet",
        ("plan", "EXPERIMENT", "--devices", "1", "--device", "B9000"),
        "expected a device among .*'NVIDIA H200'.*'a100'.*found 'B9000'",
    ),
    (
        "control characters in a device",
        ("plan", "EXPERIMENT", "--devices", "1", "--device", ESCAPES),
        r"\\x1b\[31m",
    ),
    (
        "a missing experiment",
        ("train", "nosuch.py"),
        "expected an experiment file, found nothing at nosuch.py",
    ),
    ("an experiment of control characters", ("train", f"{ESCAPES}.py"), r"found nothing at \\x1b\[31mred"),
    ("a name of 5,000 letters", ("train", "x" * 5000 + ".py"), "File name too long: .xxx"),
    ("a NUL in a name", ("describe", "a\0b.py"), "a"),
    ("a folder as an experiment", ("train", "."), "found a folder at"),
    ("a folder that is no run", ("eval", "."), "expected the folder of a run"),
    ("a missing run", ("checkpoints", "nosuch"), "expected the folder of a run .* found nothing at nosuch"),
    ("a run that is a file", ("checkpoints", "/dev/null"), "expected the folder of a run"),
    (
        "an override of control characters",
        ("describe", "EXPERIMENT", f"num_steps={ESCAPES}"),
        r"found '\\x1b\[31m",
    ),
    (
        "an override of 100,000 letters",
        ("describe", "EXPERIMENT", "num_steps=" + "x" * 100_000),
        "found 'xxx",
    ),
    ("an override of no field", ("describe", "EXPERIMENT", "steps=3"), "Experiment has no field 'steps'"),
    (
        "a warm-up as long as the run",
        ("train", "EXPERIMENT", "optimizer.schedule.warmup_steps=4"),
        "add optimizer.schedule.warmup_steps=0",
    ),
    (
        "more accumulation than steps",
        ("train", "EXPERIMENT", "optimizer.accumulation_steps=16"),
        "at most num_steps=4",
    ),
    (
        "a checkpoint manager for a mesh",
        ("describe", "EXPERIMENT", "mesh=checkpoint.manager.Checkpoints(folder='/x')"),
        "is no class or constant of mmjax",
    ),
]
ENVIRONMENT = [
    (
        "JAX_PLATFORMS=nonsense",
        "$MMJAX describe tiny.py",
        {"JAX_PLATFORMS": "nonsense"},
        "JAX finds no device: .*'nonsense'.*JAX_PLATFORMS='nonsense'",
    ),
    (
        "JAX_PLATFORMS without its device",
        "$MMJAX train tiny.py",
        {"JAX_PLATFORMS": "cuda"},
        "JAX finds no device",
    ),
    (
        "garbage in XLA_FLAGS",
        "$MMJAX describe tiny.py",
        {"XLA_FLAGS": "garbage"},
        "expected flags of XLA in XLA_FLAGS",
    ),
    (
        "an unknown flag in XLA_FLAGS",
        "$MMJAX train tiny.py",
        {"XLA_FLAGS": "--xla_nonsense=1"},
        "Unknown flag in XLA_FLAGS: --xla_nonsense=1",
    ),
    (
        "letters in JAX_NUM_CPU_DEVICES",
        "$MMJAX describe tiny.py",
        {"JAX_NUM_CPU_DEVICES": "many"},
        "JAX does not start: .*JAX_NUM_CPU_DEVICES='many'",
    ),
    (
        "no truth value in JAX_ENABLE_X64",
        "$MMJAX doctor",
        {"JAX_ENABLE_X64": "perhaps"},
        "JAX does not start: invalid truth value 'perhaps'",
    ),
    ("a closed standard output", "$MMJAX checkpoints nosuch >&-", {}, "expected an open standard output"),
    ("a closed standard error", "$MMJAX checkpoints nosuch 2>&-", {}, "expected an open standard error"),
    ("both closed", "$MMJAX checkpoints nosuch >&- 2>&-", {}, ""),
    (
        "a full disk as output",
        "$MMJAX --help >/dev/full",
        {"PYTHONUNBUFFERED": None},
        "No space left on device",
    ),
    ("a full disk as standard error", "$MMJAX checkpoints nosuch 2>/dev/full", {}, ""),
    (
        "an unknown locale",
        "env LC_ALL=xx_YY.nonsense LANG=? $MMJAX checkpoints nosuch",
        {},
        "expected the folder of a run",
    ),
    (
        "no terminal and no home",
        "$MMJAX checkpoints nosuch",
        {"TERM": None, "HOME": None},
        "expected the folder of a run",
    ),
    (
        "a home that is a file",
        "$MMJAX checkpoints nosuch",
        {"HOME": "/dev/null"},
        "expected the folder of a run",
    ),
]
NAMES = [
    ("a100", "NVIDIA A100-SXM4-40GB"),
    ("A100-80GB", "NVIDIA A100-SXM4-80GB"),
    ("nvidia h100", "NVIDIA H100 80GB HBM3"),
    ("NVIDIA H200", "NVIDIA H200"),
    ("TPU v5e", "TPU v5 lite"),
    ("tpu V5P", "TPU v5"),
    (" h200 ", "NVIDIA H200"),
]

CASES: tuple[Case, ...] = (
    *(Case("command line", name, "refused", run(*words), message) for name, words, message in FLAGS),
    *(
        Case("environment", name, "refused", shell(line, **variables), message)
        for name, line, variables, message in ENVIRONMENT
    ),
    *(
        Case(
            "command line",
            f"the device {name!r}",
            "right",
            lambda _, n=name: find_accelerator(n),
            expected=full,
        )
        for name, full in NAMES
    ),
    Case(
        "command line",
        "a reader that stops",
        "right",
        shell("$MMJAX --help | head -c 12"),
        expected="usage: mmjax",
    ),
)
