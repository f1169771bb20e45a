"""Interrupted and resumed training ends with the state of an uninterrupted run, bitwise."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from mmjax import training
from mmjax.errors import Interrupted
from mmjax.experiment import load
from mmjax.run import loop
from mmjax.run.export import export

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("compilation_cache")]

# All state that a resume could lose: random dropout, masking and crops, accumulated gradients, a schedule,
# and epochs that end within a batch.
REPLACEMENTS = tiny.RANDOM_MASKING | tiny.DROPOUT | tiny.ACCUMULATION


def assert_same_run(run_dir: Path, reference: Path, num_steps: int) -> None:
    """Asserts bitwise equality of the final state, the exported file and the logged metrics."""
    tiny.assert_same_state(tiny.read_state(run_dir), tiny.read_state(reference))
    files = [folder / "out.safetensors" for folder in (run_dir, reference)]
    assert export(run_dir, files[0], overwrite=True) == export(reference, files[1], overwrite=True)
    assert files[0].read_bytes() == files[1].read_bytes()
    rows, expected = (tiny.read_jsonl(d / "metrics.jsonl") for d in (run_dir, reference))
    assert [row["step"] for row in rows] == list(range(1, num_steps + 1))
    for name in ("loss", "loss/pairs", "loss/words", "grad_norm", "update_norm", "learning_rate"):
        assert [row[name] for row in rows] == [row[name] for row in expected], name


def test_sigterm_at_any_step_then_resume_ends_bitwise_the_same(tmp_path, monkeypatch, record_property):
    overrides = ["num_steps=8", "save_every=100", "evals.retrieval.every=3"]
    experiment = load(tiny.write(tmp_path, replace=REPLACEMENTS), overrides)
    # Every start reuses these programs, which saves tracing. The test below starts new processes.
    session = loop.Session.of(experiment)
    step = training.jit_step(
        session.learner, session.optimizer, session.abstract, session.mesh, experiment.rules
    )
    predictor = session.predictor(session.abstract)
    monkeypatch.setattr(loop.Session, "of", lambda *_: session)
    monkeypatch.setattr(loop.Session, "predictor", lambda _, state: set_params(predictor, state))
    monkeypatch.setattr(training, "jit_step", lambda *_, **__: step)
    monkeypatch.setattr(loop.RunFolder, "write_pictures", lambda *_: [])
    monkeypatch.setattr(loop.curves, "training_curves", lambda *_: None)
    results = loop.run(experiment, tmp_path / "uninterrupted")

    taken_steps = []

    def next_with_signal(train_input, next_batch=loop.TrainInput.next):
        step = len(taken_steps) + 1
        if step in stops:
            stops.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        taken_steps.append(step)
        return next_batch(train_input)

    stops = [1, 3, 4, 6]  # 3: an evaluation is due; 1 and 3: half of an update is accumulated
    monkeypatch.setattr(loop.TrainInput, "next", next_with_signal)
    for last_step in list(stops):
        with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {last_step}, which is saved"):
            loop.run(experiment, tmp_path / "interrupted")
        assert (
            max(int(p.name) for p in (tmp_path / "interrupted" / "checkpoints").glob("[0-9]*")) == last_step
        )
    assert loop.run(experiment, tmp_path / "interrupted") == results
    assert taken_steps == [1, 2, 3, 4, 5, 6, 7, 8]
    evals = [(tmp_path / d / "evals.jsonl").read_text() for d in ("interrupted", "uninterrupted")]
    assert evals[0] == evals[1] and evals[0].count("\n") == 3
    assert_same_run(tmp_path / "interrupted", tmp_path / "uninterrupted", num_steps=8)
    tiny.record_fault(
        record_property, "SIGTERM at chosen steps, some with an evaluation or within an update", 4
    )


def set_params(predictor, state):
    predictor.params = state.params
    return predictor


def test_kill_9_at_random_moments_then_resume_ends_bitwise_the_same(tmp_path, record_property):
    file = tiny.write(tmp_path, replace=REPLACEMENTS | tiny.NO_EVALS)
    command = [sys.executable, "-m", "mmjax", "train", str(file)]
    command += ["num_steps=16", "save_every=2", "data.batch_size=3"]
    environment = os.environ | tiny.cache_environment() | {"JAX_NUM_CPU_DEVICES": "1"}
    reference, run_dir = tmp_path / "uninterrupted", tmp_path / "killed"

    def start(folder: Path) -> subprocess.Popen:
        root, arguments = Path(__file__).parents[2], [*command, "--run-dir", str(folder)]
        with (tmp_path / "log").open("w") as log:
            return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, cwd=root)

    def is_saving() -> bool:
        return any((run_dir / "checkpoints").glob("*.orbax-checkpoint-tmp"))

    early, late = random.Random().randrange(1, 6), random.Random().randrange(8, 15)
    moments = {
        f"after {early} steps": lambda: tiny.num_logged(run_dir) >= early,
        "while saving": is_saving,
        f"after {late} steps": lambda: tiny.num_logged(run_dir) >= late,
    }
    assert start(reference).wait() == 0, (tmp_path / "log").read_text()
    for name, moment in moments.items():
        process = start(run_dir)
        logged = tiny.num_logged(run_dir)
        # Wait for a new row too: the unfinished save of a killed process stays until the next one deletes it.
        while not (moment() and tiny.num_logged(run_dir) > logged):
            assert process.poll() is None, f"ended before {name}: {(tmp_path / 'log').read_text()}"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert name != "while saving" or is_saving()
        print("killed", name, "with", tiny.num_logged(run_dir), "logged")
    assert start(run_dir).wait() == 0, (tmp_path / "log").read_text()
    assert_same_run(run_dir, reference, num_steps=16)
    tiny.record_fault(record_property, "kill -9 of the whole command, two encoders", len(moments))
