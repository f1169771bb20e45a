"""Each remedy that a message names works: the run folder of the failed command then goes on."""

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

from mmjax.cli.main import main
from mmjax.run import loop
from mmjax.run.folder import RunFolder

pytestmark = pytest.mark.once
CONSTANT = {"peak_learning_rate=1e-3": "peak_learning_rate=1e-3, schedule=training.Schedule(kind='constant')"}
REPLACEMENTS = CONSTANT | {
    "mlp_width=2 * WIDTH)": "mlp_width=2 * WIDTH, scan=False)",
    "trunk(depth=2)": "trunk()",
}
TAKEN = 2  # steps of the run that each case starts from; all cases go on to step 3
OTHER = "--run-dir"  # the remedy "choose another with --run-dir"


@pytest.fixture(scope="module")
def programs() -> tiny.SharedPrograms:
    return tiny.SharedPrograms()


@pytest.fixture(scope="module")
def begun(tmp_path_factory, programs) -> Path:
    """A folder with data, the experiment's file, and a run of two steps."""
    folder = tmp_path_factory.mktemp("begun")
    tiny.write(folder, replace=REPLACEMENTS)
    with pytest.MonkeyPatch.context() as patch:
        programs.install(patch)
        assert Case(folder).train(f"num_steps={TAKEN}") == 0
    return folder


@dataclasses.dataclass
class Case:
    """A copy of `begun`."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def data(self) -> Path:
        return self.folder / "colours.npz"

    def train(self, *arguments: str) -> int:
        """The exit code of the command that resumes the run; later arguments win."""
        file = str(self.folder / "tiny.py")
        return main(["train", file, "num_steps=3", "--run-dir", str(self.run), *arguments])

    def change(self, change: Callable[[dict], dict]) -> None:
        """Changes the arrays of the data."""
        np.savez(self.data, **change(dict(np.load(self.data))))


@pytest.fixture
def case(begun, tmp_path, programs, monkeypatch) -> Case:
    programs.install(monkeypatch)
    folder = tmp_path / "case"
    shutil.copytree(begun, folder)
    file = folder / "tiny.py"
    file.write_text(file.read_text().replace(str(begun), str(folder)))
    return Case(folder)


@contextlib.contextmanager
def kept(file: Path):
    """Restores a file as from a copy."""
    content = file.read_bytes()
    yield
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def without(count: int):
    return lambda arrays: {name: array[:-count] for name, array in arrays.items()}


def with_bad_text(arrays):
    return arrays | {"text": np.where(np.arange(8) == 3, "   ", arrays["text"])}


def damage_checkpoint(case: Case) -> None:
    for file in (case.run / "checkpoints").rglob("_METADATA"):
        file.unlink()


def tokenizer(case: Case) -> Path:
    return next((case.run / "tokenizers").glob("*/tokenizer.json"))


# (what is broken, how, the message, {remedy: how it is done; it may return arguments of the command})
CASES = {
    "another experiment": (
        lambda case: ["seed=5"],
        "seed: 0 -> 5 .*Restore these fields, or choose another folder with --run-dir",
        {"restore": lambda case: [], OTHER: lambda case: ["seed=5", OTHER, str(case.folder / "new")]},
    ),
    "damaged experiment.txt": (
        lambda case: (case.run / "experiment.txt").write_text("Experiment("),
        "is damaged.*Restore it from a copy, or choose another folder with --run-dir",
        {"restore": "experiment.txt", OTHER: lambda case: [OTHER, str(case.folder / "new")]},
    ),
    "other files": (
        lambda case: ((case.run / "experiment.txt").unlink(), (case.run / "thesis.tex").touch()),
        "choose another with --run-dir",
        {OTHER: lambda case: [OTHER, str(case.folder / "new")]},
    ),
    "damaged metrics": (
        lambda case: (case.run / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n'),
        "line 2.*mend or delete the line",
        {
            "mend": lambda case: (case.run / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n') and [],
            "delete": lambda case: (case.run / "metrics.jsonl").write_text('{"step": 1}\n') and [],
        },
    ),
    "damaged checkpoint": (
        damage_checkpoint,
        "Restore the files from a copy, or delete the damaged checkpoints",
        {"restore": "checkpoints", "delete": lambda case: shutil.rmtree(case.run / "checkpoints" / "2")},
    ),
    "damaged vocabularies": (
        lambda case: (case.run / "vocabularies.json").write_text('{"colours/text": 1}'),
        "restore the file, or delete it",
        {
            "restore": "vocabularies.json",
            "delete": lambda case: (case.run / "vocabularies.json").unlink(),
        },
    ),
    "other vocabularies": (
        lambda case: (case.run / "vocabularies.json").write_text(f'{{"colours/text": "{64 * "0"}"}}'),
        "Restore them, or train again in another folder",
        {"restore": "vocabularies.json", OTHER: lambda case: [OTHER, str(case.folder / "new")]},
    ),
    "damaged data.json": (
        lambda case: (case.run / "data.json").write_text('{"datasets": 5}'),
        "restore the file, or delete it",
        {"restore": "data.json", "delete": lambda case: (case.run / "data.json").unlink()},
    ),
    "damaged tokenizer": (
        lambda case: tokenizer(case).write_text("{}"),
        "restore its folder from a copy of the run, or delete it, to train the tokenizer on the data again",
        {"restore": "tokenizers", "delete": lambda case: shutil.rmtree(tokenizer(case).parent)},
    ),
    "other data": (
        lambda case: case.change(without(2)),
        "changed colours.npz.*records 8 -> 6.*Restore the data, pass --accept-data to go on with these, or "
        "choose another folder with --run-dir",
        {
            "restore": "../colours.npz",
            "--accept-data": lambda case: ["--accept-data"],
            OTHER: lambda case: [OTHER, str(case.folder / "new"), "data.datasets.colours.1.streams.text"
                                 ".tokenizer.vocab_size=38"],
        },
    ),
    "bad examples": (
        lambda case: case.change(with_bad_text),
        r"found 1 of 8. Correct the data or increase max_bad_fraction. The first:\n.*text",
        {
            "correct": "../colours.npz",
            "increase": lambda case: [
                "data.max_bad_fraction=0.2", "evals.retrieval.max_bad_fraction=0.2"
            ],
        },
    ),
    "bad examples of an evaluation": (
        lambda case: (
            case.change(with_bad_text)
            or ["data.max_bad_fraction=0.2", "evals.retrieval.max_bad_fraction=0.01"]
        ),
        "found 1 of 8. Correct the data or increase max_bad_fraction",
        {
            "correct": "../colours.npz",
            "increase": lambda case: [
                "data.max_bad_fraction=0.2", "evals.retrieval.max_bad_fraction=0.2"
            ],
        },
    ),
    "keep_best of an unknown metric": (
        lambda case: ["keep_best=retrieval/nosuch", "eval_every=3"],
        "correct it, and the same command resumes",
        {"correct": lambda case: ["keep_best=retrieval/image->text/R@1", "eval_every=3"]},
    ),
    "moved data": (
        lambda case: case.data.rename(case.folder / "moved.npz"),
        "expected data at .*colours.npz, found none",
        {"--data": lambda case: ["--data", str(case.folder / "moved.npz")]},
    ),
}  # fmt: skip
TABLE = [(name, remedy) for name, (_, _, remedies) in CASES.items() for remedy in remedies]


@pytest.mark.parametrize(("name", "remedy"), TABLE)
def test_remedy_lets_the_run_go_on(name, remedy, case, tmp_path, capsys):
    damage, message, remedies = CASES[name]
    shutil.copytree(case.folder, tmp_path / "copy")
    arguments = damage(case)
    assert case.train(*(arguments if isinstance(arguments, list) else [])) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed, re.DOTALL), printed
    assert case.train(*apply(remedies[remedy], case, tmp_path / "copy")) == 0, capsys.readouterr().err


def apply(remedy, case: Case, copy: Path) -> list[str]:
    """Does what the remedy says; returns further arguments of the command. A text: restores that path."""
    if isinstance(remedy, str):
        source, target = (copy / "run" / remedy).resolve(), (case.run / remedy).resolve()
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
        return []
    arguments = remedy(case)
    return arguments if isinstance(arguments, list) else []


def test_bad_data_stop_each_start_with_their_list(case, capsys):
    """The count begins anew at each start, so that a remedy works; unmended data stop every start again."""
    case.change(with_bad_text)
    for _ in range(2):
        assert case.train() == 2
        printed = capsys.readouterr().err
        assert "found 1 of 8" in printed and "text" in printed.split("The first:")[1]


def test_non_finite_steps_are_skipped_after_a_resume(case, capsys, monkeypatch):
    def next_with_nan(train_input, next_batch=loop.TrainInput.next):
        batch, waited = next_batch(train_input)
        return batch | {"image": batch["image"].replace(pixels=batch["image"].pixels * np.nan)}, waited

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainInput, "next", next_with_nan)
        assert case.train("num_steps=4") == 3
        assert "resume with on_nonfinite=skip or on_nonfinite=rollback" in capsys.readouterr().err
        assert case.train("num_steps=4", "on_nonfinite=skip") == 0
    assert tiny.read_jsonl(case.run / "metrics.jsonl")[-1]["skipped_steps"] == 2


def test_another_process_is_waited_for(case, capsys):
    with RunFolder.claim(case.run, (case.run / "experiment.txt").read_text()):
        assert case.train("num_steps=2") == 2
        assert "wait for it, or choose another with --run-dir" in capsys.readouterr().err
    assert case.train() == 0


def test_run_without_a_checkpoint_is_used_after_the_first(case, capsys):
    shutil.rmtree(case.run / "checkpoints")
    assert main(["eval", str(case.run)]) == 2
    assert "found none yet: train until the first is saved" in capsys.readouterr().err
    assert case.train() == 0 and main(["eval", str(case.run)]) == 0
