"""The command line: verbs, exit codes, output, and imports."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from mmjax.cli.main import main
from mmjax.errors import InputError, Interrupted, NonFiniteError
from mmjax.run import loop
from mmjax.run.export import flatten
from mmjax.run.handle import open_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(experiment file, run folder, standard output of training)."""
    folder = tmp_path_factory.mktemp("cli")
    file, run_dir = tiny.write(folder), folder / "run"
    command = [sys.executable, "-m", "mmjax", "train", str(file), "--run-dir", str(run_dir), "mesh.data=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_device())
    assert done.returncode == 0, done.stderr
    return file, run_dir, done.stdout


def one_device() -> dict[str, str]:
    return {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}


def test_train_prints_a_table_and_the_path_of_the_run(trained):
    _, run_dir, printed = trained
    assert printed.splitlines()[-1] == f"run: {run_dir}"
    table = printed.splitlines()
    assert table[0].split()[:2] == ["retrieval", "score"] and "chance" in table[0]
    assert any(line.startswith("image->text/R@5 ") for line in table)


def test_train_writes_the_documented_files(trained):
    _, run_dir, _ = trained
    rows = tiny.read_jsonl(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {"step", "loss", "loss/pairs"} <= rows[0].keys()
    assert {"examples_per_second", "input_wait_share"} <= rows[-1].keys()
    (row,) = tiny.read_jsonl(run_dir / "evals.jsonl")
    assert row["step"] == 4 and row["eval"] == "retrieval" and "image->text/R@1" in row
    assert (run_dir / "experiment.txt").read_text().startswith("Experiment(")
    assert sorted(p.name for p in (run_dir / "checkpoints").iterdir() if p.name.isdecimal()) == ["2", "4"]
    assert list((run_dir / "tensorboard").glob("events*"))
    assert (run_dir / "pictures" / "curves.png").stat().st_size > 1000


def test_another_experiment_in_its_folder_is_refused(trained, capsys):
    file, run_dir, _ = trained
    assert main(["train", str(file), "seed=1", "--run-dir", str(run_dir)]) == 2
    assert "belongs to another experiment" in capsys.readouterr().err


def test_eval_prints_json_on_the_last_line(trained, capsys):
    _, run_dir, _ = trained
    assert main(["eval", str(run_dir), "--json"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 <= results["retrieval"]["image->text/R@5"] <= 1
    assert main(["eval", str(run_dir), "--json", "--data", str(run_dir.parent / "colours.npz")]) == 0
    same_data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert same_data["retrieval"]["image->text/R@5"] == results["retrieval"]["image->text/R@5"]


def test_exported_parameters_equal_the_restored_ones(trained, tmp_path, capsys):
    _, run_dir, _ = trained
    assert main(["export", str(run_dir), str(tmp_path / "out.safetensors")]) == 0
    assert "arrays, of step 4" in capsys.readouterr().out
    arrays = load_file(tmp_path / "out.safetensors")
    expected = dict(flatten(open_run(run_dir).state.params))
    assert {
        "encoders.text.table",
        "encoders.image.stem.linear.kernel",
        "objectives.pairs.log_scale",
    } <= arrays.keys()
    assert arrays.keys() == expected.keys()
    assert all((arrays[name] == np.asarray(expected[name])).all() for name in arrays)


def test_eval_takes_overrides_of_evaluations(trained, capsys):
    _, run_dir, _ = trained
    recorded = (run_dir / "evals.jsonl").read_bytes()
    assert main(["eval", str(run_dir), "--json", "evals.retrieval.limit=4"]) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results["retrieval"]["image->text/num_queries"] == 4
    assert (run_dir / "evals.jsonl").read_bytes() == recorded
    assert main(["eval", str(run_dir), "model.fusion=fusion.Late()"]) == 2
    assert "expected overrides of evaluations, such as evals.NAME.limit=100" in capsys.readouterr().err


def test_eval_on_missing_data_is_refused(trained, capsys):
    _, run_dir, _ = trained
    assert main(["eval", str(run_dir), "--data", "nosuch.npz"]) == 2
    assert "nosuch.npz" in capsys.readouterr().err


def test_describe_prints_parameters_flops_views_and_fields(trained, capsys):
    file, _, _ = trained
    assert main(["describe", str(file), "model.encoders.image.trunk.depth=3"]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "encoders image",
        "heads text",
        "objectives pairs",
        "total",
        "FLOPs per example",
        "views",
        "depth=3,",
    ):
        assert expected in printed


def test_overrides_may_stand_before_or_after_options(tmp_path, monkeypatch, capsys):
    runs = []
    monkeypatch.setattr(
        loop, "run", lambda experiment, run_dir, *_, **__: runs.append((experiment, run_dir)) or {}
    )
    file = tiny.write(tmp_path)
    assert (
        main(["train", str(file), "seed=1", "--run-dir", str(tmp_path / "x"), "num_steps=9", "--debug"]) == 0
    )
    experiment, run_dir = runs[-1]
    assert (experiment.seed, experiment.num_steps, run_dir) == (1, 9, tmp_path / "x")
    assert main(["train", str(file)]) == 0
    assert str(runs[-1][1]) == "runs/tiny"


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("no"), 2), (NonFiniteError("step 3"), 3), (Interrupted("saved"), 75)]
)
def test_exit_codes(error, code, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(loop, "run", stop)
    assert main(["train", str(tiny.write(tmp_path))]) == code
    captured = capsys.readouterr()
    assert captured.err.strip().endswith(f"mmjax: {error}") and "Traceback" not in captured.err


def test_unexpected_error_is_raised_and_not_printed(tmp_path, monkeypatch, capsys):
    """The interpreter prints it. main() prints it only in a run with several processes."""

    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(loop, "run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", str(tiny.write(tmp_path))])
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "x.py", "--nosuch"],
        ["eval"],
        ["export", "run", "x.safetensors", "a=1"],
        ["export", "run"],
    ],
)
def test_bad_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: mmjax" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--help"], 0, "describe"),
        (["train", "--help"], 0, "path.to.field=value"),
        (["--version"], 0, "mmjax 0.3.0"),
        (["train", "nosuch.py"], 2, "expected an experiment file, found nothing at nosuch.py"),
        (["eval", "nosuch"], 2, "expected the folder of a run"),
        (["export", "nosuch", "x.safetensors"], 2, "expected the folder of a run"),
    ],
)
def test_help_version_and_missing_paths_import_nothing_heavy(arguments, code, message):
    program = (
        "import sys\nfrom mmjax.cli.main import main\ntry:\n    code = main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    code = stop.code or 0\n"
        "print(code, sorted({'jax', 'flax', 'orbax', 'grain'} & set(sys.modules)))"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{code} []"
    assert message in done.stdout + done.stderr
    assert time.perf_counter() - start < 5  # 0.1 s on an idle machine; imports alone take 3


@pytest.mark.parametrize(
    ("devices", "before", "after"),
    [("8", None, "32"), ("8", "5", "5"), ("2", None, None), (None, None, None), ("many", None, None)],
)
def test_more_devices_than_cores_set_nproc(devices, before, after, monkeypatch, capsys):
    for name, value in (("JAX_NUM_CPU_DEVICES", devices), ("NPROC", before)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert main(["describe", "nosuch.py"]) == 2
    assert os.environ.get("NPROC") == after


@pytest.mark.parametrize("path", ["a" * 5000, "folder"])
def test_invalid_paths_give_one_message(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for arguments in (["train", path], ["eval", path], ["export", path, "x.safetensors"], ["describe", path]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("mmjax: ")


def test_closed_output_pipe_is_no_error(tmp_path):
    command = f"{sys.executable} -m mmjax describe {tiny.write(tmp_path)} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=one_device()
    )
    assert done.stdout.splitlines() == ["tiny: 4 steps of 8 examples", "0"] and "Error" not in done.stderr


def test_experiment_file_that_calls_exit_is_refused(tmp_path, capsys):
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    assert main(["describe", str(tmp_path / "exits.py")]) == 2
    assert "line 2: SystemExit: 0" in capsys.readouterr().err


def test_debug_shows_the_traceback():
    command = [sys.executable, "-m", "mmjax", "train", "nosuch.py", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" in done.stderr
