"""A run's folder belongs to one experiment and one process, and stays readable after a kill."""

import json
import os
import subprocess
import sys

import pytest

from mmjax.errors import InputError
from mmjax.run.folder import RunFolder

TEXT = "Experiment(\n    name='x',\n    seed=0,\n    mesh=sharding.MeshShape(data=1),\n)\n"


def test_folder_is_created_and_can_be_claimed_again(tmp_path):
    for _ in range(2):
        with RunFolder.claim(tmp_path / "a" / "b", TEXT) as folder:
            assert folder.text == TEXT
            assert folder.pictures.is_dir() and folder.checkpoints.is_dir()


def test_another_experiment_is_refused_with_the_changed_fields(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        folder.write_metrics(1, {"loss": 1.0})
    with pytest.raises(InputError) as refusal:
        RunFolder.claim(tmp_path / "run", TEXT.replace("seed=0", "seed=1"))
    assert "belongs to another experiment" in str(refusal.value) and "seed: 0 -> 1" in str(refusal.value)
    assert "(the parameters, and the order of the data, came from it)" in str(refusal.value)
    assert "name" not in str(refusal.value)


def test_folder_without_a_step_accepts_another_experiment(tmp_path):
    RunFolder.claim(tmp_path / "run", TEXT).close()  # as after missing data
    for leftover in ("lock", "experiment.txt.new", ".writable"):
        (tmp_path / "run" / leftover).touch()
    other_text = TEXT.replace("seed=0", "seed=1")
    with RunFolder.claim(tmp_path / "run", other_text) as folder:
        assert folder.text == other_text
        (tmp_path / "run" / "checkpoints" / "2").mkdir()
    with pytest.raises(InputError, match="belongs to another experiment"):
        RunFolder.claim(tmp_path / "run", TEXT)


@pytest.mark.parametrize("damage", [b"Experiment(", b"\xff\xfe\x00", b""])
def test_error_names_a_damaged_experiment(damage, tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        folder.write_metrics(1, {"loss": 1.0})
    (tmp_path / "run" / "experiment.txt").write_bytes(damage)
    with pytest.raises(InputError, match=r"run/experiment.txt is damaged, so .* cannot be compared"):
        RunFolder.claim(tmp_path / "run", TEXT)


@pytest.mark.parametrize("damage", [b"5", b"{}", b"\xff\x00", b'{"step": "1"}', b'{"step": 1'])
def test_error_names_a_damaged_line_and_an_incomplete_last_line_is_skipped(damage, tmp_path):
    message = "expected a JSON object with a step and numbers in .*metrics.jsonl, line 2"
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        (folder.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 2}\n')
        with pytest.raises(InputError, match=message):
            folder.resume(2)
        (folder.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, "lo')
        folder.resume(2)
        assert folder.metrics() == [{"step": 1}]


def test_processes_with_writes_false_write_nothing(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT, writes=False) as folder:
        folder.resume(3)
        folder.write_metrics(4, {"loss": 1.0})
        folder.write_eval(4, "retrieval", {"R@1": 1.0})
        assert folder.write_pictures("x", {"y": lambda file: file.touch()}) == []
        assert folder.running_count("bad_examples") == 0 and folder.recorded(4, "retrieval") is None
    assert not (tmp_path / "run").exists()


def test_run_of_a_version_with_fewer_fields_resumes(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        folder.write_metrics(1, {"loss": 1.0})
    newer_text = TEXT.replace("mesh=", "log_every=20,\n    on_nonfinite='stop',\n    mesh=")
    with RunFolder.claim(tmp_path / "run", newer_text) as folder:
        assert folder.text == newer_text
    with pytest.raises(InputError, match="balance.*the updates already made weighted"):
        RunFolder.claim(tmp_path / "run", TEXT.replace("mesh=", "balance=x.Other(),\n    mesh="))


def test_amend_metrics_changes_the_last_row(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        folder.amend_metrics({"seconds/step": 1.0})
        assert folder.metrics() == []
        for step in (1, 2):
            folder.write_metrics(step, {"loss": 0.5, "seconds/step": 1.0})
        folder.amend_metrics({"seconds/step": 3.0, "goodput": 0.5})
        assert folder.metrics() == [
            {"step": 1, "loss": 0.5, "seconds/step": 1.0},
            {"step": 2, "loss": 0.5, "seconds/step": 3.0, "goodput": 0.5},
        ]


def test_scores_are_the_finite_values_of_one_metric_by_step(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        for step, score in ((10, 0.25), (20, float("nan")), (30, 0.5)):
            folder.write_eval(step, "a", {"R@5": score})
            folder.write_eval(step, "b", {"R@5": 1.0})
        assert folder.scores("a", "R@5") == {10: 0.25, 30: 0.5}
        assert folder.scores("a", "R@1") == {}


def test_mesh_may_change(tmp_path):
    RunFolder.claim(tmp_path / "run", TEXT).close()
    other_mesh = TEXT.replace("data=1", "data=8")
    with RunFolder.claim(tmp_path / "run", other_mesh) as folder:
        assert folder.text == other_mesh


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="found .* with thesis.tex and no experiment.txt"):
        RunFolder.claim(tmp_path, TEXT)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match="expected a folder to train in, found a file"):
        RunFolder.claim(tmp_path / "run", TEXT)


def test_folder_name_that_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(InputError, match="whose name is UTF-8 text"):
        RunFolder.claim(tmp_path / os.fsdecode(b"run\xff"), TEXT)


def test_read_only_folder_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):  # root ignores permissions: raise what a read-only file system raises
        monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(InputError, match=r"expected a run folder that can be written, found .*run read-only"):
        RunFolder.claim(folder, TEXT)


def refuse(*_, **__):
    raise OSError(30, "Read-only file system")


def test_reading_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected the folder of a run .* found nothing at"):
        RunFolder(tmp_path / "nosuch")
    with pytest.raises(InputError, match="found a folder without experiment.txt"):
        RunFolder(tmp_path)


def test_second_process_is_refused(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT):
        with pytest.raises(InputError, match="another process trains in"):
            RunFolder.claim(tmp_path / "run", TEXT)
    RunFolder.claim(tmp_path / "run", TEXT).close()


def test_lock_of_a_killed_process_is_released(tmp_path):
    program = (
        "import os, sys; from mmjax.run.folder import RunFolder; "
        "folder = RunFolder.claim(sys.argv[1], sys.argv[2]); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "run", TEXT], check=False)
    assert killed.returncode == -9
    RunFolder.claim(tmp_path / "run", TEXT).close()


def test_metrics_and_evals_are_lines_of_json(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        folder.write_metrics(20, {"loss": 1.5, "loss/pairs": float("nan")})
        folder.write_eval(20, "retrieval", {"image->text/R@5": 0.25})
        lines = (folder.path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [{"step": 20, "loss": 1.5, "loss/pairs": None}]
        assert folder.evals() == [{"step": 20, "eval": "retrieval", "image->text/R@5": 0.25}]
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))


def test_resume_deletes_the_rows_of_steps_that_run_again(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        for step in (10, 20, 30):
            folder.write_metrics(step, {"loss": 0.5})
            folder.write_eval(step, "x", {"score": 0.5})
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 40, "lo')  # as a killed process leaves it
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        assert [row["step"] for row in folder.metrics()] == [10, 20, 30]
        assert folder.resume(20)
        assert not folder.resume(20), "no more rows to delete"
        assert [row["step"] for row in folder.metrics()] == [10, 20]
        assert [row["step"] for row in folder.evals()] == [10, 20]
        folder.write_metrics(30, {"loss": 0.25})
        assert folder.metrics()[-1] == {"step": 30, "loss": 0.25}
        folder.resume(0)
        assert folder.metrics() == []


def test_error_names_the_damaged_line_of_metrics(tmp_path):
    folder = RunFolder.claim(tmp_path / "run", TEXT)
    (folder.path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(InputError, match="metrics.jsonl, line 2, found 'nonsense'"):
        folder.metrics()
    folder.close()


def test_picture_files_have_portable_names(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        files = folder.write_pictures(
            "scores", {"image->text/five best": lambda path: path.write_bytes(b"png")}
        )
    assert [file.name for file in files] == ["scores_image-to-text_five_best.png"]
    assert files[0].read_bytes() == b"png"


def test_error_names_damaged_vocabularies(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        (folder.path / "vocabularies.json").write_bytes(b'{"data/te')
        with pytest.raises(InputError, match="expected JSON in .*vocabularies.json, found other text: "):
            folder.check_vocabularies({"data/text": "abc"})


def test_changed_vocabularies_are_refused_after_the_first_step(tmp_path):
    with RunFolder.claim(tmp_path / "run", TEXT) as folder:
        folder.resume(0)
        folder.check_vocabularies({"data/text": "abc", "data/keywords": "x"})
        folder.resume(2)
        folder.check_vocabularies({"data/text": "abc", "data/keywords": "x"})
        with pytest.raises(InputError, match="was trained with, found others for data/text: the data or"):
            folder.check_vocabularies({"data/text": "abd", "data/keywords": "x"})
        folder.resume(0)  # at step 0 no step depends on them
        folder.check_vocabularies({"data/text": "abd"})
    (tmp_path / "run" / "vocabularies.json").unlink()
    RunFolder(tmp_path / "run").check_vocabularies({"data/text": "abd"})
    assert not (tmp_path / "run" / "vocabularies.json").exists()  # a reader writes nothing
