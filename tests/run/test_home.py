"""A run works from any folder, with moved data, and without its training data: it holds its tokenizers."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

import mmjax
from mmjax import data
from mmjax.cli.main import main
from mmjax.errors import InputError
from mmjax.experiment import Experiment
from mmjax.run import locations, tokenizers
from mmjax.run.folder import RunFolder

RELATIVE = {
    "data.Npz({path!r})": 'data.Npz("colours.npz")',
    "peak_learning_rate=1e-3": "peak_learning_rate=1e-3, schedule=training.Schedule(kind='constant')",
    "mlp_width=2 * WIDTH)": "mlp_width=2 * WIDTH, scan=False)",
    "trunk(depth=2)": "trunk()",
}
TEXTS = ["big red square", "small blue square"]
pytestmark = [pytest.mark.once, pytest.mark.usefixtures("compilation_cache")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with data, the experiment's file, whose data path is relative, and a run of two steps."""
    folder = tmp_path_factory.mktemp("home")
    tiny.write(folder, replace=RELATIVE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "tiny.py", "num_steps=2", "--run-dir", "run"]) == 0
    return folder


@pytest.fixture
def home(trained, tmp_path, monkeypatch) -> Path:
    """A copy of `trained`, as if it had been trained there; the present folder is another."""
    home = Path(shutil.copytree(trained, tmp_path / "home"))
    file = home / "run" / "data.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"folder": str(home)}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return home


def retrieval(capsys, *arguments) -> dict:
    assert main(["eval", *map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out.splitlines()[-1])["retrieval"]


def test_eval_and_train_work_from_another_folder(home, capsys):
    capsys.readouterr()
    assert retrieval(capsys, home / "run") == mmjax.open_run(home / "run").results["retrieval"]
    assert main(["train", str(home / "tiny.py"), "num_steps=3", "--run-dir", str(home / "run")]) == 0
    assert json.loads((home / "run" / "data.json").read_text())["folder"] == str(home)


def test_moved_data_are_found_in_the_present_folder(home, capsys):
    shutil.move(home / "colours.npz", "colours.npz")
    assert main(["train", str(home / "tiny.py"), "num_steps=3", "--run-dir", str(home / "run")]) == 0
    assert json.loads((home / "run" / "data.json").read_text())["folder"] == os.getcwd()


def test_data_are_named_by_their_new_folder_or_file(home, capsys):
    (home / "new").mkdir()
    train = ["train", str(home / "tiny.py"), "num_steps=3", "--run-dir", str(home / "run")]
    shutil.move(home / "colours.npz", home / "new" / "colours.npz")
    assert main(train) == 2 and "found none" in capsys.readouterr().err
    assert main([*train, "--data", str(home / "new")]) == 0
    shutil.move(home / "new" / "colours.npz", home / "renamed.npz")
    assert main([*train, "num_steps=4", "--data", str(home / "renamed.npz")]) == 0
    assert main([*train, "num_steps=5", "--data", str(home / "nosuch")]) == 2
    assert "--data expects the file or folder" in capsys.readouterr().err


def test_a_run_is_used_without_its_training_data(home, capsys):
    expected = mmjax.open_run(home / "run").embed(text=TEXTS)
    shutil.move(home / "colours.npz", home / "test.npz")
    run = mmjax.open_run(home / "run")
    np.testing.assert_array_equal(run.embed(text=TEXTS), expected)
    assert run.evaluate("retrieval", home / "test.npz") == run.results["retrieval"]
    assert retrieval(capsys, home / "run", "--data", home / "test.npz") == run.results["retrieval"]


def test_a_vocabulary_trained_on_changed_data_does_not_replace_the_runs(home):
    expected = mmjax.open_run(home / "run").embed(text=TEXTS)
    arrays = dict(np.load(home / "colours.npz"))
    np.savez(
        home / "colours.npz", **arrays | {"text": np.array([f"{n} quite other words" for n in range(8)])}
    )
    np.testing.assert_array_equal(mmjax.open_run(home / "run").embed(text=TEXTS), expected)


def test_evaluation_without_training_data_leaves_out_its_baselines(home, capsys, caplog):
    experiment = mmjax.open_run(home / "run").experiment
    evaluation = dataclasses.replace(
        experiment.evals["retrieval"], train=data.with_path(experiment.evals["retrieval"].data, "nosuch.npz")
    )
    from mmjax.run.handle import without_missing_training_data

    assert without_missing_training_data("retrieval", evaluation).train is None
    assert "retrieval: the baselines from training data are left out" in caplog.text


def test_results_of_changed_data_are_not_recorded(home, capsys, caplog):
    (home / "run" / "evals.jsonl").unlink()
    arrays = dict(np.load(home / "colours.npz"))
    np.savez(home / "colours.npz", **{name: array[:6] for name, array in arrays.items()})
    retrieval(capsys, home / "run")
    assert "records 8 -> 6" in caplog.text and not (home / "run" / "evals.jsonl").exists()


def test_an_older_run_without_tokenizers_opens_as_before(home):
    expected = mmjax.open_run(home / "run").embed(text=TEXTS)
    shutil.rmtree(home / "run" / "tokenizers")
    (home / "run" / "data.json").unlink()
    os.chdir(home)
    np.testing.assert_array_equal(mmjax.open_run(home / "run").embed(text=TEXTS), expected)


OWN = '''
import dataclasses
from mmjax import data, evals

@dataclasses.dataclass(frozen=True)
class OwnText(data.TextTransform):
    """A class of the user's."""
'''


def test_a_run_with_classes_of_ones_own_is_used_by_its_file(home, capsys):
    file = home / "own.py"
    source = (home / "tiny.py").read_text().replace("data.TextTransform(", "OwnText(")
    file.write_text(source.replace("from mmjax import data, enc", f"{OWN}\nfrom mmjax import data, enc", 1))
    text = (home / "run" / "experiment.txt").read_text()
    module = "mmjax_experiment_own.OwnText("
    (home / "run" / "experiment.txt").write_text(text.replace("data.TextTransform(", module))
    assert main(["eval", str(home / "run")]) == 2
    assert "OwnText" in capsys.readouterr().err
    own = ["--experiment", str(file), "num_steps=2"]
    assert retrieval(capsys, home / "run", *own)["image->text/num_queries"] == 8
    assert main(["eval", str(home / "run"), *own, "seed=4"]) == 2
    assert "belongs to another experiment" in capsys.readouterr().err
    assert main(["describe", str(home / "run"), *own]) == 0
    assert "OwnText" in capsys.readouterr().out


def test_describe_takes_a_run(home, capsys):
    assert main(["describe", str(home / "run")]) == 0
    assert "tiny: 2 steps of 8 examples" in capsys.readouterr().out
    assert main(["describe", str(home)]) == 2
    assert "found a folder without experiment.txt" in capsys.readouterr().err


# Units


@pytest.fixture(scope="module")
def experiment(trained) -> Experiment:
    return mmjax.load(trained / "tiny.py")


def paths(experiment: Experiment) -> list[str]:
    return locations.paths_of(experiment)


def test_replace_values_keeps_what_does_not_change(experiment):
    assert locations.replace_in_data(experiment, lambda value: value) is experiment
    other = locations.replace_in_data(experiment, lambda v: "b.npz" if v == "colours.npz" else v)
    assert paths(experiment) == ["colours.npz"] and paths(other) == ["b.npz"]
    assert other.model is experiment.model


@pytest.mark.parametrize(
    ("old", "files", "found"),
    [
        ("/old/a.npz", ["a.npz"], "a.npz"),
        ("old/sub/a.npz", ["sub/a.npz", "a.npz"], "sub/a.npz"),
        ("/old/shards", ["shards/a.npz"], "shards"),
        ("/old/x-*.npz", ["x-1.npz"], "x-*.npz"),
        ("/old/renamed", ["a.npz"], ""),
    ],
)
def test_moved_data_are_looked_up_by_the_end_of_their_path(old, files, found, experiment, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    before = locations.replace_in_data(experiment, lambda v: old if v == "colours.npz" else v)
    assert paths(locations.moved(before, tmp_path)) == [str(tmp_path / found) if found else str(tmp_path)]


def test_data_of_several_paths_must_be_found_by_name(experiment, tmp_path):
    two = dict(experiment.data.datasets)
    two["more"] = (1.0, data.with_path(two["colours"][1], "b.npz"))
    mixed = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, datasets=two))
    with pytest.raises(InputError, match=r"\('colours.npz', 'b.npz'\), found none of these"):
        locations.moved(mixed, tmp_path)
    (tmp_path / "b.npz").touch()
    assert sorted(paths(locations.moved(mixed, tmp_path))) == [str(tmp_path / "b.npz"), "colours.npz"]


def test_every_tokenizer_is_named_and_saved_once(experiment, tmp_path, trained, monkeypatch):
    monkeypatch.chdir(trained)
    evaluation = experiment.evals["retrieval"]
    spec = dataclasses.replace(evaluation.data.streams["text"].tokenizer, lowercase=False)
    own = mmjax.experiment.override(evaluation, "data.streams.text.length=7")
    own = locations.replace_values(own, lambda v: spec if isinstance(v, data.WordPiece) else v)
    experiment = dataclasses.replace(experiment, evals={"a": evaluation, "b": own, "c": own})
    named = tokenizers.named_tokenizers(experiment)
    assert list(named) == ["colours/text", "evals.b.0"]
    with RunFolder.claim(tmp_path / "run", "Experiment()\n") as folder:
        tokenizers.check_and_save(experiment, folder)
        restored = tokenizers.restore(experiment, folder)
    specs = tokenizers.named_tokenizers(restored)
    for name, spec in specs.items():
        assert isinstance(spec, data.SavedTokenizer)
        assert spec.open().digest() == named[name].open().digest()
        assert spec.open().encode("Big red, SMALL blue") == named[name].open().encode("Big red, SMALL blue")
        assert spec.open().decode(range(20)) == named[name].open().decode(range(20))


def test_pretrained_tokenizers_are_saved(experiment, tmp_path):
    from tokenizers import Tokenizer
    from transformers import BertTokenizerFast

    folder = tmp_path / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "big", "red", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(str(folder))
    spec = data.Pretrained(str(folder), vocab_size=len(words))
    using = locations.replace_in_data(experiment, lambda v: spec if isinstance(v, data.WordPiece) else v)
    expected = (spec.open().encode("big reds x"), spec.open().special_ids, spec.open().decode([5, 6, 7]))
    with RunFolder.claim(tmp_path / "run", "Experiment()\n") as claimed:
        tokenizers.check_and_save(using, claimed)
        shutil.rmtree(folder)
        saved = tokenizers.named_tokenizers(tokenizers.restore(using, claimed))["colours/text"]
    vocabulary = saved.open()
    assert isinstance(saved, data.SavedTokenizer)
    assert (vocabulary.encode("big reds x"), vocabulary.special_ids, vocabulary.decode([5, 6, 7])) == expected
    assert Tokenizer.from_file(str(Path(saved.folder) / "tokenizer.json")).get_vocab_size() == len(words)


def test_tokenizers_that_cannot_be_saved_stay(experiment, tmp_path):
    class Words(data.Vocabulary):
        size, special_ids = 41, {"pad": 0, "cls": 1, "sep": 2}

        def encode(self, text):
            return [3], [0]

        def decode(self, ids):
            return ""

        def digest(self):
            return "ab" * 32

    @dataclasses.dataclass(frozen=True)
    class Own(data.TokenizerSpec):
        vocab_size: int = 41

        def open(self):
            return Words()

    using = locations.replace_in_data(experiment, lambda v: Own() if isinstance(v, data.WordPiece) else v)
    with RunFolder.claim(tmp_path / "run", "Experiment()\n") as folder:
        tokenizers.check_and_save(using, folder)
        assert tokenizers.restore(using, folder) is using
        assert list((folder.path / "tokenizers").iterdir()) == []
