"""Training that is stopped at any step and started again by the same command ends as if it never had."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from mmjax import train
from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import Interrupted
from mmjax.experiment import load
from mmjax.run import loop
from mmjax.run.export import export

pytestmark = pytest.mark.once

# Everything that a resume could lose: dropout, masking and crops drawn anew each step, texts drawn from two,
# accumulated gradients, a schedule, and epochs that end within a batch.
DRAWN = tiny.DRAWN_WORDS | {
    "mlp_width=2 * WIDTH)": "mlp_width=2 * WIDTH, dropout=0.2, scan=False)",
    "trunk(depth=2)": "trunk()",
    "peak_learning_rate=1e-3": "peak_learning_rate=1e-2, accumulation_steps=2",
}


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """A folder of compiled programs: every start after the first finds its step there."""
    yield from tiny.compilation_cache(tmp_path_factory.mktemp("compiled"))


EVAL = 'evals={{"retrieval": evals.Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)}},'


def state_of(run_dir: Path) -> dict[str, np.ndarray]:
    """Parameters, moments, key and step of the newest checkpoint, by path."""
    checkpoints = Checkpoints(run_dir / "checkpoints", read_only=True)
    leaves = jax.tree.leaves_with_path(checkpoints.restore_arrays())
    checkpoints.close()
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_same_end(run_dir: Path, reference: Path, num_steps: int) -> None:
    """Equal to the bit: the whole state, the exported file, and what was logged on the way."""
    found, expected = state_of(run_dir), state_of(reference)
    assert found.keys() == expected.keys() and any("nu" in name for name in found) and "['key']" in found
    assert [name for name in found if found[name].tobytes() != expected[name].tobytes()] == []
    assert export(run_dir, run_dir / "out.safetensors") == export(reference, reference / "out.safetensors")
    assert (run_dir / "out.safetensors").read_bytes() == (reference / "out.safetensors").read_bytes()
    rows, wanted = (
        [json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()]
        for d in (run_dir, reference)
    )
    assert [row["step"] for row in rows] == list(range(1, num_steps + 1))
    for name in ("loss", "loss/pairs", "loss/words", "grad_norm", "update_norm", "learning_rate"):
        assert [row[name] for row in rows] == [row[name] for row in wanted], name


def test_stopped_by_a_signal_at_any_step(tmp_path, monkeypatch, record_property):
    overrides = ["num_steps=7", "save_every=100", "evals.retrieval.every=3"]
    experiment = load(tiny.write(tmp_path, replace=DRAWN), overrides)
    # Traced once: the test is about the loop, and the one below starts new processes.
    setup = loop.Session.of(experiment)
    step = train.jit_step(setup.learner, setup.optimizer, setup.abstract, setup.mesh, experiment.rules)
    predictor = setup.predictor(setup.abstract)
    monkeypatch.setattr(loop.Session, "of", lambda *_: setup)
    monkeypatch.setattr(loop.Session, "predictor", lambda _, state: set_params(predictor, state))
    monkeypatch.setattr(train, "jit_step", lambda *_, **__: step)
    monkeypatch.setattr(loop.RunFolder, "write_pictures", lambda *_: [])
    monkeypatch.setattr(loop.pictures, "loss_curves", lambda *_: None)
    results = loop.run(experiment, tmp_path / "never_stopped")

    sent = []

    def next_and_signal(feed, wait=loop.TrainInput.next):
        step = len(sent) + 1
        if step in stops:
            stops.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        sent.append(step)
        return wait(feed)

    stops = [1, 3, 4, 6]  # the first step, one with an evaluation due, and one in mid-accumulation
    monkeypatch.setattr(loop.TrainInput, "next", next_and_signal)
    for last in list(stops):
        with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {last}, which is saved"):
            loop.run(experiment, tmp_path / "stopped")
        assert max(int(p.name) for p in (tmp_path / "stopped" / "checkpoints").glob("[0-9]*")) == last
    assert loop.run(experiment, tmp_path / "stopped") == results
    assert sent == [1, 2, 3, 4, 5, 6, 7]
    evals = [(tmp_path / d / "evals.jsonl").read_text() for d in ("stopped", "never_stopped")]
    assert evals[0] == evals[1] and evals[0].count("\n") == 3
    assert_same_end(tmp_path / "stopped", tmp_path / "never_stopped", num_steps=7)
    tiny.record(record_property, "SIGTERM at a given step, evaluations and accumulation in their midst", 4)


def set_params(predictor, state):
    predictor.params = state.params
    return predictor


def test_killed_at_random_moments(tmp_path, record_property):
    file = tiny.write(tmp_path, replace=DRAWN | {EVAL: ""})
    command = [sys.executable, "-m", "mmjax", "train", str(file)]
    command += ["num_steps=16", "save_every=2", "data.batch_size=3"]
    environment = os.environ | tiny.cache_environment() | {"JAX_NUM_CPU_DEVICES": "1"}
    reference, run_dir = tmp_path / "never_killed", tmp_path / "killed"

    def start(folder: Path) -> subprocess.Popen:
        root, arguments = Path(__file__).parents[2], [*command, "--run-dir", str(folder)]
        with (tmp_path / "log").open("w") as log:
            return subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, cwd=root)

    def num_logged() -> int:
        file = run_dir / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def saving() -> bool:
        return any((run_dir / "checkpoints").glob("*.orbax-checkpoint-tmp"))

    early, late = random.Random().randrange(1, 6), random.Random().randrange(8, 15)
    moments = {
        f"after {early} steps": lambda: num_logged() >= early,
        "while saving": saving,
        f"after {late} steps": lambda: num_logged() >= late,
    }
    assert start(reference).wait() == 0, (tmp_path / "log").read_text()
    for name, moment in moments.items():
        process = start(run_dir)
        logged = num_logged()
        # "While saving" is of this process: what an earlier kill left is cleaned up when it starts.
        while not (moment() and num_logged() > logged):
            assert process.poll() is None, f"ended before {name}: {(tmp_path / 'log').read_text()}"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert name != "while saving" or saving()
        print("killed", name, "with", num_logged(), "logged")
    assert start(run_dir).wait() == 0, (tmp_path / "log").read_text()
    assert_same_end(run_dir, reference, num_steps=16)
    tiny.record(record_property, "kill -9 of the whole command, two towers", len(moments))
