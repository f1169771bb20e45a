"""Every experiment of the repository: its docstring, its golden text and its train step."""

import ast
import os
from pathlib import Path

import jax
import pytest

from mmjax.experiment import Experiment, from_text, load, to_text
from mmjax.learner import Learner
from mmjax.sharding import unbox
from mmjax.training import train_step
from mmjax.training.state import init_state

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "experiments"
FILES = sorted((ROOT / "experiments").glob("*.py"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request, monkeypatch) -> Path:
    """An experiment's file. MMJAX_DATA names a missing folder: making an experiment reads no data."""
    monkeypatch.setenv("MMJAX_DATA", "/data")
    return request.param


@pytest.fixture
def experiment(file) -> Experiment:
    """The experiment, validated."""
    return load(file)


def test_name_and_command_in_the_docstring_match_the_file_name(experiment, file):
    assert experiment.name == file.stem
    assert f"mmjax train experiments/{file.name}" in file.read_text().split('"""')[1], (
        "the docstring must contain the command"
    )


def test_text_equals_the_golden_text(experiment, file):
    """The golden text leaves out defaults, so that a new field with a default changes no file."""
    text = to_text(experiment, defaults=False).replace(str(ROOT), "<repository>")
    golden = GOLDEN / f"{file.stem}.txt"
    if os.environ.get("MMJAX_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    # Compared without line breaks: the length of the repository's path decides where some lines break.
    assert golden.is_file() and in_one_line(text) == in_one_line(golden.read_text()), (
        f"{file.name} differs from {golden}. If the change is intended, run "
        "MMJAX_GOLDEN=1 pytest tests/test_experiments.py -k golden, and read the diff"
    )


def in_one_line(text: str) -> str:
    """The expression without its line breaks."""
    return ast.unparse(ast.parse(text))


def test_text_round_trips(experiment):
    assert from_text(to_text(experiment)) == experiment
    assert from_text(to_text(experiment, defaults=False)) == experiment


def test_train_step_returns_a_state_of_the_same_shapes(experiment):
    """Traces the train step without computing it."""
    learner = Learner(model=experiment.model, objectives=experiment.objectives)
    optimizer = experiment.optimizer.make(experiment.num_steps)
    batch = experiment.data.spec()
    state = jax.eval_shape(lambda: unbox(init_state(learner, optimizer, batch, experiment.seed)))
    after, metrics = jax.eval_shape(
        lambda s, b: train_step(s, b, learner=learner, optimizer=optimizer), state, batch
    )
    assert after == state
    assert {"loss", "grad_norm", *(f"loss/{name}" for name in experiment.objectives)} <= metrics.keys()
    assert {(x.shape, x.dtype.name) for x in metrics.values()} == {((), "float32")}


def test_every_golden_text_has_an_experiment():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {path.stem for path in FILES}
