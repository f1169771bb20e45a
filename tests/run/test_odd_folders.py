"""A run lives in a folder of any name: train, stop, resume, verify, evaluate, export, describe, open."""

import json
import shutil
import unicodedata
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from mmjax.cli.main import main
from mmjax.errors import Interrupted
from mmjax.experiment import load
from mmjax.run import loop
from mmjax.run.handle import open_run
from mmjax.run.signals import StopSignal

pytestmark = pytest.mark.usefixtures("compilation_cache")
# Of a folder, and of the run's folder in it. tests/corpus/run_folders.py has more names, without a model.
NAMES = (
    (" two  spaces ", "lr[1e-3]"),
    ("*?{a,b}[!x]~$HOME", unicodedata.normalize("NFD", "ü試験")),
    ("line\nbreak\ttab", unicodedata.normalize("NFC", "ü試験")),
    ("gs:", "back\\slash 'it' \"is\""),
    ("%s%20{0}#a=b&c;d|e:f,g", "x" * 200),
)
REPLACEMENTS = {"mlp_width=2 * WIDTH)": "mlp_width=2 * WIDTH, scan=False)", "trunk(depth=2)": "trunk()"}


@pytest.fixture(scope="module")
def programs() -> tiny.SharedPrograms:
    return tiny.SharedPrograms()


def live(folder: Path, run_dir: Path, capsys) -> None:
    """The whole life of a run whose experiment and data are in `folder`."""
    file = tiny.write(folder, replace=REPLACEMENTS)
    experiment, stop = load(file), StopSignal()

    def stop_at_3(train_input, next_batch=loop.TrainInput.next):
        stop.name = "SIGTERM" if tiny.num_logged(run_dir) == 2 else None
        return next_batch(train_input)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted, match="after step 3"):
        patch.setattr(loop.TrainInput, "next", stop_at_3)
        loop.run(experiment, run_dir, stop, devices=jax.devices()[:1])
    results = loop.run(experiment, run_dir, devices=jax.devices()[:1])
    assert [row["step"] for row in tiny.read_jsonl(run_dir / "metrics.jsonl")] == [1, 2, 3, 4]
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["3", "4"]

    path = str(run_dir)
    capsys.readouterr()
    assert main(["checkpoints", path, "--verify"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("verified") == 2
    assert main(["eval", path, "--json"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out.splitlines()[-1]).keys() == results.keys()
    exported = run_dir / "out.safetensors"
    assert main(["export", path, str(exported)]) == 0, capsys.readouterr().err
    assert main(["describe", path]) == 0, capsys.readouterr().err

    run = open_run(run_dir)
    assert (run.step, run.results) == (4, results)
    parameters, arrays = run.parameters(), load_file(exported)
    assert parameters.keys() == arrays.keys()
    assert all(np.array_equal(parameters[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(("parent", "name"), NAMES)
def test_life_of_a_run(programs, monkeypatch, tmp_path, capsys, parent, name):
    programs.install(monkeypatch)
    (tmp_path / parent).mkdir()
    live(tmp_path / parent, tmp_path / parent / name, capsys)


@pytest.mark.parametrize("link", ["the folder", "its parent", "relative"])
def test_life_of_a_run_behind_a_link(programs, monkeypatch, tmp_path, capsys, link):
    programs.install(monkeypatch)
    (tmp_path / "disk [1]" / "run").mkdir(parents=True)
    (tmp_path / "here").symlink_to(Path("disk [1]") / ("run" if link == "the folder" else ""))
    monkeypatch.chdir(tmp_path)
    run_dir = {
        "the folder": tmp_path / "here", "its parent": tmp_path / "here" / "run", "relative": Path("here/run")
    }[link]  # fmt: skip
    live(tmp_path, run_dir, capsys)
    assert (tmp_path / "disk [1]" / "run" / "checkpoints" / "4").is_dir()


def test_a_run_survives_a_move_to_another_name(programs, monkeypatch, tmp_path, capsys):
    programs.install(monkeypatch)
    experiment = load(tiny.write(tmp_path, replace=REPLACEMENTS))
    loop.run(experiment, tmp_path / "lr[1e-3]", devices=jax.devices()[:1])
    for name in ("plain", "a[b]c"):
        moved = Path(shutil.copytree(tmp_path / "lr[1e-3]", tmp_path / name))
        assert main(["checkpoints", str(moved), "--verify"]) == 0
        assert open_run(moved).step == 4
    capsys.readouterr()
