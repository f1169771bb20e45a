"""A complete run: its files, its resume, and its errors."""

import contextlib
import itertools
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from safetensors.numpy import load_file

from mmjax import evals
from mmjax.checkpoint.manager import Checkpoints
from mmjax.cli.main import main
from mmjax.errors import InputError, Interrupted
from mmjax.experiment import load
from mmjax.run import goodput, loop
from mmjax.run.export import flatten
from mmjax.run.folder import RunFolder
from mmjax.run.handle import open_run

pytestmark = pytest.mark.usefixtures("compilation_cache")
REPLACEMENTS = {"mlp_width=2 * WIDTH)": "mlp_width=2 * WIDTH, scan=False)", "trunk(depth=2)": "trunk()"}
OVERRIDES = ["num_steps=5", "log_every=2", "save_every=3", "evals.retrieval.every=2"]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """The experiment's file, in a folder whose name has spaces and letters beyond ASCII."""
    folder = tmp_path_factory.mktemp("tiny") / "ein Ordner für 試験"
    folder.mkdir()
    return tiny.write(folder, replace=REPLACEMENTS)


@pytest.fixture(scope="module")
def trained(file) -> Path:
    """The folder of a finished run."""
    run_dir = file.parent / "der Lauf"
    assert main(["train", str(file), *OVERRIDES, "--run-dir", str(run_dir)]) == 0
    return run_dir


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """A copy of a finished run, which a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_metrics_are_logged_when_due_and_before_each_save(trained):
    rows = tiny.read_jsonl(trained / "metrics.jsonl")
    # 1: the first step; 2, 4: log_every and evaluations; 3: save_every; 5: the last step.
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    required = {"loss", "loss/pairs", "grad_norm", "update_norm", "learning_rate", "bad_examples"}
    assert all(required <= row.keys() and all(map(math.isfinite, row.values())) for row in rows)
    # The first step compiles, so its row has no speed.
    assert all({"examples_per_second", "input_wait_share"} <= row.keys() for row in rows[1:])
    assert rows[0].keys() & {"examples_per_second", "input_wait_share"} == set()
    assert all(row["loss"] == row["loss/pairs"] for row in rows)
    assert rows[0]["learning_rate"] == pytest.approx(1e-3) and rows[-1]["learning_rate"] < 2e-4


def test_evaluations_run_at_multiples_of_every_and_at_the_end(trained):
    rows = tiny.read_jsonl(trained / "evals.jsonl")
    assert [(row["step"], row["eval"]) for row in rows] == [(step, "retrieval") for step in (2, 4, 5)]
    assert all({"image->text/R@5", "image->text/R@5/chance"} <= row.keys() for row in rows)


def test_pictures_are_large_and_not_blank(trained):
    pictures = sorted((trained / "pictures").iterdir())
    assert {"curves.png", "retrieval_image_to_text.png"} <= {picture.name for picture in pictures}
    for picture in pictures:
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 200 and pixels.std() > 1, picture


def test_tensorboard_events_hold_the_logged_numbers(trained):
    events = tiny.read_events(trained / "tensorboard")
    scalars = {
        (event.step, value.tag): value.simple_value for event in events for value in event.summary.value
    }
    for row in tiny.read_jsonl(trained / "metrics.jsonl"):
        assert scalars[row["step"], "train/loss/pairs"] == pytest.approx(row["loss/pairs"])
    for row in tiny.read_jsonl(trained / "evals.jsonl"):
        assert scalars[row["step"], "eval/retrieval/image-to-text/R@5"] == pytest.approx(
            row["image->text/R@5"]
        )


def test_finished_run_returns_its_results_without_training_or_evaluating(file, copy, monkeypatch, capsys):
    before = {name: (copy / name).read_bytes() for name in ("metrics.jsonl", "evals.jsonl", "experiment.txt")}
    monkeypatch.setattr(evals.Retrieval, "__call__", must_not_run)
    monkeypatch.setattr(loop.training, "jit_step", must_not_run)
    results = loop.run(load(file, OVERRIDES), copy)
    last = tiny.read_jsonl(copy / "evals.jsonl")[-1]
    assert results == {"retrieval": {name: last[name] for name in last if name not in ("step", "eval")}}
    assert before == {name: (copy / name).read_bytes() for name in before}


def must_not_run(*_, **__):
    raise AssertionError("called for a finished run")


def test_killed_evaluation_is_repeated(file, copy):
    expected = tiny.read_jsonl(copy / "evals.jsonl")
    (copy / "evals.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in expected[:-1]) + '{"step": 5, "ev'
    )
    (copy / "pictures" / "retrieval_image_to_text.png").unlink()
    loop.run(load(file, OVERRIDES), copy)
    assert tiny.read_jsonl(copy / "evals.jsonl") == expected
    assert (copy / "pictures" / "retrieval_image_to_text.png").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_evaluation_ends_the_run_with_75(number, file, copy, monkeypatch, capsys):
    expected = tiny.read_jsonl(copy / "evals.jsonl")
    (copy / "evals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in expected[:-1]))

    def kill(self, predictor):
        os.kill(os.getpid(), number)
        return predictor(None, None, ())

    with monkeypatch.context() as patch:
        patch.setattr(evals.Retrieval, "__call__", kill)
        assert main(["train", str(file), *OVERRIDES, "--run-dir", str(copy)]) == 75
    printed = capsys.readouterr().err
    assert f"stopped by {number.name} while evaluating step 5, which is saved; the same command" in printed
    assert signal.getsignal(number) not in (None, signal.SIG_IGN) and "Traceback" not in printed


def test_signal_during_startup_ends_the_run_before_the_first_step(file, tmp_path, monkeypatch, capsys):
    def kill(*arguments, of=loop.Session.of):
        os.kill(os.getpid(), signal.SIGTERM)
        return of(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Session, "of", kill)
        assert main(["train", str(file), "--run-dir", str(tmp_path / "run")]) == 75
    assert "stopped by SIGTERM before step 1; the same command resumes" in capsys.readouterr().err
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_second_signal_ends_the_run_immediately(file, tmp_path, monkeypatch, capsys):
    def kill_twice(*_):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop.Session, "of", kill_twice)
    assert main(["train", str(file), "--run-dir", str(tmp_path / "run")]) == 130


def test_non_finite_loss_stops_the_run_and_keeps_the_last_checkpoint(file, tmp_path, capsys):
    run_dir = tmp_path / "run"
    # After one step the parameters are about 1e17: finite, but the embeddings overflow.
    overrides = ["save_every=1", "optimizer.peak_learning_rate=1e17"]
    assert main(["train", str(file), *overrides, "--run-dir", str(run_dir)]) == 3
    printed = capsys.readouterr().err
    assert re.search("step 2: objective 'pairs' is (nan|inf); the last checkpoint is kept", printed)
    assert "Traceback" not in printed
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["1"]
    state = open_run(run_dir).state
    assert all(np.isfinite(leaf).all() for _, leaf in flatten(state.params))
    assert [row["step"] for row in tiny.read_jsonl(run_dir / "metrics.jsonl")] == [1]


PHASES = [f"seconds/{phase}" for phase in goodput.PHASES]


def test_metrics_hold_cumulative_seconds_by_phase(trained):
    rows = tiny.read_jsonl(trained / "metrics.jsonl")
    for earlier, later in itertools.pairwise(rows):
        assert all(earlier[phase] <= later[phase] for phase in PHASES)
    # The last row is amended at the end, so it includes the evaluation after it.
    assert all(rows[-1][phase] > 0 for phase in PHASES if phase != "seconds/lost")
    fraction = rows[-1]["seconds/step"] / sum(rows[-1][phase] for phase in PHASES)
    assert rows[-1]["goodput"] == pytest.approx(fraction, abs=1e-3) and rows[-1]["seconds/lost"] == 0


def test_time_of_repeated_steps_counts_as_lost(file, copy, capsys):
    before = tiny.read_jsonl(copy / "metrics.jsonl")
    (copy / "checkpoints" / "5" / "sha256.json").unlink()
    assert main(["train", str(file), *OVERRIDES, "--run-dir", str(copy)]) == 0
    fourth, last = before[-2], tiny.read_jsonl(copy / "metrics.jsonl")[-1]
    repeated = sum(before[-1][phase] for phase in PHASES) - sum(fourth[phase] for phase in PHASES)
    assert last["seconds/lost"] == pytest.approx(repeated, abs=0.01) and repeated > 0
    assert last["seconds/compile"] > fourth["seconds/compile"], "the sum of both starts"
    assert re.search(r"^trained [\d.]+% of [\d,]+ s: restart .*, lost ", capsys.readouterr().out, re.M)


def test_best_checkpoint_is_kept_after_a_resume(file, tmp_path, monkeypatch):
    tiny.SharedPrograms().install(monkeypatch)
    scores, calls = [0.1, 0.9, 0.3, 0.2], []
    result = lambda *_: calls.append(1) or evals.Result({"R@1": scores[len(calls) - 1]})  # noqa: E731
    monkeypatch.setattr(evals.Retrieval, "__call__", result)
    overrides = ["num_steps=8", "save_every=2", "eval_every=2", "max_to_keep=1"]

    def train(keep_best: str):
        loop.run(load(file, [*overrides, keep_best]), tmp_path / "run", devices=jax.devices()[:1])

    def stop_at_5(train_input, next_batch=loop.TrainInput.next):
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return next_batch(train_input)

    with pytest.raises(InputError, match=r"expects a metric of the evaluation 'retrieval', found \['R@1'\]"):
        train("keep_best=retrieval/R@5")
    calls.clear()
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="after step 5"):
        patch.setattr(loop.TrainInput, "next", stop_at_5)
        train("keep_best=retrieval/R@1")  # resumes with the corrected metric
    train("keep_best=retrieval/R@1")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["4", "8"]


def test_run_of_a_version_with_fewer_fields_resumes(file, copy):
    text = (copy / "experiment.txt").read_text()
    new_fields = ("keep_every=0", "keep_best=None", "best_mode='max'", "on_nonfinite='stop'")
    old = "".join(line for line in text.splitlines(keepends=True) if line.strip(" ,\n") not in new_fields)
    assert old.count("\n") == text.count("\n") - 4
    (copy / "experiment.txt").write_text(old)
    assert main(["eval", str(copy), "--json"]) == 0
    assert main(["train", str(file), *OVERRIDES, "--run-dir", str(copy)]) == 0
    assert (copy / "experiment.txt").read_text() == text


def test_run_of_another_experiment_is_refused_and_left_unchanged(file, copy, capsys):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert main(["train", str(file), *OVERRIDES, "optimizer.b1=0.5", "--run-dir", str(copy)]) == 2
    printed = capsys.readouterr().err
    assert "belongs to another experiment" in printed and "optimizer.b1: 0.9 -> 0.5" in printed
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_read_only_folder_is_refused_by_train_and_accepted_by_eval(file, copy, monkeypatch, tmp_path, capsys):
    (copy / "evals.jsonl").write_text("")

    def read_only(path, *_, **__):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", read_only)
    monkeypatch.setattr(RunFolder, "write_eval", read_only)
    assert main(["train", str(file), *OVERRIDES, "--run-dir", str(copy)]) == 2
    assert "expected a run folder that can be written" in capsys.readouterr().err
    assert main(["eval", str(copy), "--json"]) == 0
    assert "retrieval" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_full_disk_gives_one_message(file, copy, monkeypatch, capsys):
    (copy / "evals.jsonl").unlink()

    def full(*_, **__):
        raise OSError(28, "No space left on device", "evals.jsonl")

    monkeypatch.setattr(RunFolder, "write_eval", full)
    assert main(["train", str(file), *OVERRIDES, "--run-dir", str(copy)]) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device: 'evals.jsonl'. Nothing that was saved is lost" in printed


def test_eval_of_other_data_records_nothing(file, copy, capsys):
    other = copy.parent / "other shard.npz"
    arrays = dict(np.load(file.parent / "colours.npz"))
    np.savez(other, **{name: array[:4] for name, array in arrays.items()})
    before = (copy / "evals.jsonl").read_bytes()
    assert main(["eval", str(copy), "--data", str(other), "--json"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results["retrieval"]["image->text/num_queries"] == 4
    assert (copy / "evals.jsonl").read_bytes() == before


@pytest.mark.parametrize("verb", ["eval", "train"])
def test_changed_vocabulary_is_refused(verb, file, copy, capsys):
    digests = json.loads((copy / "vocabularies.json").read_text())
    assert list(digests) == ["colours/text"] and len(digests["colours/text"]) == 64
    (copy / "vocabularies.json").write_text(json.dumps({"colours/text": 64 * "0"}))
    (copy / "evals.jsonl").unlink()  # a complete run would need no data
    command = {"eval": ["eval", str(copy)], "train": ["train", str(file), *OVERRIDES, "--run-dir", str(copy)]}
    assert main(command[verb]) == 2
    assert "was trained with, found others for colours/text: the data or" in capsys.readouterr().err


def test_export_of_a_step(trained, tmp_path, capsys):
    for step in (4, 5):
        out = tmp_path / f"{step}.safetensors"
        assert main(["export", str(trained), str(out), "--step", str(step)]) == 0
        assert f"of step {step}" in capsys.readouterr().out
        reader = Checkpoints(trained / "checkpoints", read_only=True)
        saved = dict(flatten(reader.restore_arrays(step)["params"]))
        reader.close()
        exported = load_file(out)
        assert exported.keys() == saved.keys()
        assert all(np.array_equal(exported[name], saved[name]) for name in saved)
    assert main(["export", str(trained), str(tmp_path / "x.safetensors"), "--step", "6"]) == 2
    assert "expected a checkpoint of step 6" in capsys.readouterr().err


def test_describe_counts_the_trained_parameters(file, trained, capsys):
    assert main(["describe", str(file)]) == 0
    printed = capsys.readouterr().out
    state = open_run(trained).state
    total = sum(leaf.size for _, leaf in flatten(state.params))
    assert f" {total:,}  total" in printed
    for part in ("encoders image", "encoders text", "heads image", "FLOPs per example", "for ['pairs']"):
        assert part in printed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mesh.data=0", "'mesh.data' expects -1 or int from 1"),
        ("mesh.data=7", "expected data.batch_size to be a multiple of 7, found 8"),
        (
            "num_steps=99999999999999999999",
            "'num_steps' expects int from 1 to 2,147,483,647",
        ),
        ("seed=-1", "'seed' expects int from 0"),
        ("data.batch_size=-8", "'data.batch_size' expects int from 1"),
        ("model.encoders.image.trunk.width=17", "cannot be built for these data: ValueError: width 17"),
        ("model.encoders.image.stem.patch=(3, 3)", "cannot be built for these data"),
        ("model.encoders.text.vocab=3", "has a vocabulary of 41: expected at least that"),
        ("data.datasets.colours.1.source.path=nosuch/colours.npz", "nosuch/colours.npz, found none"),
        ("evals.retrieval.data.source.path=nosuch/test.npz", "nosuch/test.npz, found none"),
    ],
)
def test_unfitting_field_gives_one_message_before_any_step(override, message, file, tmp_path, capsys):
    assert main(["train", str(file), override, "--run-dir", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed and "0/4" not in printed
    # The corrected command can claim the folder.
    RunFolder.claim(tmp_path / "run", "Experiment()\n").close()


def test_too_many_bad_examples_stop_the_run(tmp_path, capsys):
    file = tiny.write(tmp_path, replace=REPLACEMENTS)
    arrays = dict(np.load(tmp_path / "colours.npz"))
    arrays["text"][3] = "   "
    np.savez(tmp_path / "colours.npz", **arrays)
    assert main(["train", str(file), "--run-dir", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert "expected at most 1.00% bad examples (max_bad_fraction), found 1 of 8" in printed
    assert "\n  3: " in printed or "colours.npz" in printed.split("The first:")[1]


def test_each_start_counts_bad_examples_anew_and_warns_of_earlier_ones(file, caplog):
    session = loop.Session.of(load(file))
    for num_bad, warns in ((2, True), (0, False)):
        caplog.clear()
        with contextlib.closing(loop.TrainInput(session, first_step=3, num_bad=num_bad)) as train_input:
            assert (train_input.counter.num_bad, train_input.counter.num_rows) == (0, 0)
            assert train_input.num_bad() == num_bad  # of the whole run
        assert ("2 of the 24 rows before this start were bad" in caplog.text) == warns
