"""Resuming and using a run: changed fields, other data, moved data, and hostile files that describe them."""

import dataclasses
import functools
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corpus.case import Case
from mmjax import data, heads, objectives, training, views
from mmjax.experiment import Experiment, override, to_text
from mmjax.run import files, identity, locations, tokenizers
from mmjax.run.folder import RunFolder
from mmjax.run.handle import experiment_of
from mmjax.run.start import at_home
from mmjax.testing import tiny_model
from mmjax.training import Schedule

FAMILY = "resuming"
TEXTS = ["a red cat", "a blue dog", "two red dogs", "one cat"]
VOCAB = 30


def experiment(folder: Path, source: data.Source | None = None) -> Experiment:
    """An experiment on texts; nothing is trained."""
    source = data.Jsonl("texts.jsonl") if source is None else source
    tokenizer = data.WordPiece(data.Jsonl("texts.jsonl"), ("text",), vocab_size=VOCAB)
    dataset = data.Dataset(source, {"text": data.TextTransform("text", tokenizer, length=6)})
    return Experiment(
        name="texts",
        num_steps=100,
        data=data.Mixture.of(dataset, batch_size=2),
        model=dataclasses.replace(tiny_model(), heads={"words": heads.TokenLogits("text")}),
        objectives={"words": objectives.MaskedLanguage("words", view=views.MaskTokens("text", vocab=VOCAB))},
        optimizer=training.AdamW(peak_learning_rate=1e-3, schedule=Schedule(kind="constant")),
    )


def write_texts(file: Path, texts: list[str] = TEXTS) -> None:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def begun(folder: Path, num_taken: int = 50) -> RunFolder:
    """A run in folder/run, claimed, with data, tokenizers and the (empty) checkpoint of a step."""
    write_texts(folder / "texts.jsonl")
    made = experiment(folder)
    run = RunFolder.claim(folder / "run", to_text(made), made.optimizer)
    (run.checkpoints / str(num_taken)).mkdir()
    identity.check_and_record(made, run, str(folder))
    tokenizers.check_and_save(made, run)
    return run


# Fields


def resume_with(folder: Path, assignments: tuple[str, ...], schedule: Schedule | None = None) -> list[str]:
    """The changes with which a run of 50 of 100 steps goes on."""
    begun(folder).close()
    made = experiment(folder)
    if schedule is not None:
        optimizer = dataclasses.replace(made.optimizer, schedule=schedule)
        made = dataclasses.replace(made, optimizer=optimizer)
        files.write_atomically(folder / "run" / files.EXPERIMENT, to_text(made))
    changed = functools.reduce(override, assignments, made)
    return files.refuse_another_experiment(folder / "run", to_text(changed), changed.optimizer)


REFUSED_FIELDS = {
    "seed=3": "seed: 0 -> 3 .the parameters, and the order",
    "data.batch_size=3": "data.batch_size: 2 -> 3 .the steps already taken read other examples",
    "data.datasets.data.0=2.0": "data.datasets.data.0: 1.0 -> 2.0",
    "data.datasets.data.1.streams.text.length=5": "length: 6 -> 5 .*other examples",
    "data.datasets.data.1.streams.text.tokenizer.vocab_size=31": "vocab_size: 30 -> 31",
    "optimizer.weight_decay=0.5": "weight_decay: 0.0 -> 0.5 .the updates already made",
    "optimizer.schedule.warmup_steps=3": "warmup_steps: 0 -> 3",
    "objectives.words.weight=2.0": "minimised another loss",
    "name=other": "name: 'texts' -> 'other'",
    "num_steps=49": "50 steps are already taken",
}
ALLOWED_FIELDS = {
    "num_steps=50": "num_steps: 100 -> 50",
    "num_steps=1000": "num_steps: 100 -> 1000",
    "log_every=1": "log_every: 20 -> 1",
    "save_every=10": "save_every: 500 -> 10",
    "data.max_bad_fraction=0.5": "data.max_bad_fraction: 0.01 -> 0.5",
    "on_nonfinite=skip": "on_nonfinite: 'stop' -> 'skip'",
    "data.datasets.data.1.source.hint=x": "data.datasets.data.1.source.hint: '' -> 'x'",
}
SCHEDULES = {
    "wsd whose decay has not begun": (Schedule(kind="wsd", decay_fraction=0.2), 200, ""),
    "wsd in whose new decay steps are taken": (
        Schedule(kind="wsd", decay_fraction=0.9), 60, "another learning rate at step"
    ),
    "rsqrt before its decay": (Schedule(kind="rsqrt", warmup_steps=2, decay_fraction=0.1), 200, ""),
    "cosine": (Schedule(kind="cosine"), 200, "'cosine' .* of 200 steps has another learning rate at step 2"),
}  # fmt: skip


def of_schedule(name: str, schedule: Schedule, num_steps: int, refusal: str) -> Case:
    give = lambda folder: resume_with(folder, (f"num_steps={num_steps}",), schedule)  # noqa: E731
    if refusal:
        return Case(FAMILY, f"num_steps of {name}", "refused", give, message=refusal)
    return Case(FAMILY, f"num_steps of {name}", "right", give, expected=[f"num_steps: 100 -> {num_steps}"])


def of_field(assignment: str, promise: str, found: str) -> Case:
    give = functools.partial(resume_with, assignments=(assignment,))
    return Case(FAMILY, f"other {assignment}", promise, give, message=found, expected=[found])


FIELDS = (
    *(of_field(assignment, "refused", message) for assignment, message in REFUSED_FIELDS.items()),
    *(of_field(assignment, "right", change) for assignment, change in ALLOWED_FIELDS.items()),
    *(of_schedule(name, *arguments) for name, arguments in SCHEDULES.items()),
)

# Data


def write_tar(file: Path, num_records: int, size: int = 5) -> None:
    file.parent.mkdir(exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for number in range(num_records):
            member = tarfile.TarInfo(f"{file.stem}{number}.txt")
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))


def resume_on(change: Callable[[Path], Any], *, accept: bool = False) -> Callable[[Path], int]:
    """Records two shards of three records, changes them, and compares: the number that is then recorded."""

    def give(folder: Path) -> int:
        shards = folder / "shards"
        for name in "ac":
            write_tar(shards / f"{name}.tar", 3)
        with begun(folder) as run:
            before = experiment(folder, data.WebDataset(str(shards)))
            identity.check_and_record(before, run, str(folder), accept=True)
            now = experiment(folder, change(shards) or data.WebDataset(str(shards)))
            identity.check_and_record(now, run, str(folder), accept=accept)
        return json.loads((folder / "run" / "data.json").read_text())["datasets"]["data.data"]["records"]

    return give


def moved(shards: Path) -> data.Source:
    return data.WebDataset(str(shards.rename(shards.with_name("elsewhere"))))


DATA = {
    "a shard added between two": (lambda s: write_tar(s / "b.tar", 1), "added b.tar; records 6 -> 7"),
    "a shard added at the end": (lambda s: write_tar(s / "d.tar", 3), "added d.tar; records 6 -> 9"),
    "a shard removed": (lambda s: (s / "a.tar").unlink(), "removed a.tar; records 6 -> 3"),
    "a shard replaced by one of another name": (
        lambda s: ((s / "c.tar").unlink(), write_tar(s / "d.tar", 3, size=20_000)) and None,
        "removed c.tar; added d.tar",
    ),
    "a shard shortened by a record": (lambda s: write_tar(s / "a.tar", 2), "records 6 -> 5"),
    "shards in another order": (
        lambda s: data.WebDataset((str(s / "c.tar"), str(s / "a.tar"))), "the files are in another order"
    ),
    "another format with as many records": (
        lambda s: write_texts(s / "texts.jsonl", TEXTS * 2) or data.Jsonl(str(s / "texts.jsonl")),
        "removed a.tar; removed c.tar; added texts.jsonl",
    ),
    "a shard mended in place": (lambda s: write_tar(s / "a.tar", 3, size=20_000), 6),
    "shards moved": (moved, 6),
    "shards renamed": (lambda s: (s / "c.tar").rename(s / "b.tar") and None, 6),
}  # fmt: skip


def of_data(name: str, change: Callable[[Path], Any], promise: str | int) -> Case:
    if isinstance(promise, str):
        return Case(FAMILY, name, "refused", resume_on(change), message=f"{promise}.*--accept-data")
    return Case(FAMILY, name, "right", resume_on(change), expected=promise)


def from_elsewhere(folder: Path) -> list[str]:
    """The paths of a run that is opened from another folder."""
    begun(folder).close()
    (folder / "elsewhere").mkdir()
    os.chdir(folder / "elsewhere")
    run = RunFolder(folder / "run")
    made, _ = at_home(experiment_of(run, experiment(folder)), run)
    os.chdir(folder)
    return [os.path.relpath(path, folder) for path in locations.paths_of(made)]


def without_data(folder: Path) -> list[int]:
    """The places of two letters among a text's tokens, in a run whose data are gone; and two sizes."""
    begun(folder).close()
    (folder / "texts.jsonl").unlink()
    run = RunFolder(folder / "run")
    made, _ = at_home(experiment(folder), run)
    transform = made.data.datasets["data"][1].streams["text"]
    file = next(folder.glob("run/tokenizers/*/tokenizer.json"))
    vocabulary = json.loads(file.read_text())["model"]["vocab"]
    ids = transform.tokenizer.open().encode("a A d")[0]
    return [*(ids.index(vocabulary[letter]) for letter in "ad"), len(ids), transform.tokenizer.open().size]


OPENED = (
    *(of_data(name, *arguments) for name, arguments in DATA.items()),
    Case(
        FAMILY, "a shard added and accepted", "right",
        resume_on(DATA["a shard added at the end"][0], accept=True), expected=9,
    ),
    Case(FAMILY, "opened from another folder", "right", from_elsewhere, expected=["texts.jsonl"]),
    Case(FAMILY, "the training data are gone", "right", without_data, expected=[0, 2, 3, VOCAB]),
    Case(
        FAMILY, "--data names nothing", "refused",
        lambda folder: locations.moved(experiment(folder), folder / "x"),
        message="--data expects the file or folder that the data were moved to, found none at .*/x",
    ),
)  # fmt: skip

# Hostile files


def opened_with(damage: Callable[[RunFolder], Any]) -> Callable[[Path], Any]:
    """Damages a run, then opens its data and checks its vocabularies, as `mmjax eval` does."""

    def give(folder: Path) -> Any:
        with begun(folder) as run:
            damage(run)
        run = RunFolder(folder / "run")
        made, _ = at_home(experiment(folder), run)
        tokenizers.check_and_save(made, run)
        return identity.changed_data(made, run, "none")

    return give


def replaced(name: str, content: str | bytes | dict | list | int) -> Callable[[RunFolder], Any]:
    """Replaces the file `name` of a run: text, bytes, JSON, or a sparse file of so many bytes."""

    def damage(run: RunFolder) -> None:
        for file in run.path.glob(name):
            if isinstance(content, int):
                os.truncate(file, content)
            elif isinstance(content, bytes):
                file.write_bytes(content)
            else:
                file.write_text(content if isinstance(content, str) else json.dumps(content))

    return damage


def with_fifo(name: str) -> Callable[[RunFolder], None]:
    def damage(run: RunFolder) -> None:
        file = next(run.path.glob(name))
        file.unlink()
        os.mkfifo(file)

    return damage


def of_another_model(run: RunFolder) -> None:
    """A BPE tokenizer in place of the WordPiece."""
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(next(run.path.glob("tokenizers/*/tokenizer.json"))))


def changed_tokenizer(change: Callable[[dict], Any]) -> Callable[[RunFolder], None]:
    def damage(run: RunFolder) -> None:
        file = next(run.path.glob("tokenizers/*/tokenizer.json"))
        value = json.loads(file.read_text())
        change(value["model"]["vocab"])
        file.write_text(json.dumps(value))

    return damage


def swapped(vocab: dict[str, int]) -> None:
    first, second = [token for token in vocab if token.isalpha()][:2]
    vocab[first], vocab[second] = vocab[second], vocab[first]


def escaping(run: RunFolder) -> None:
    """Digests that name a folder outside the run, with a tokenizer in it."""
    (run.path / "x").mkdir()
    replaced("vocabularies.json", {"data/text": "../x"})(run)


TOKENIZER = "tokenizers/*/tokenizer.json"
HOSTILE = {
    "data.json that is no JSON": (replaced("data.json", "{"), "expected JSON in .*data.json"),
    "data.json that is a list": (replaced("data.json", [1]), "expected a JSON object in .*data.json"),
    "data.json of other bytes": (replaced("data.json", b"\xff\xfe\x00"), "expected text in .*data.json"),
    "data.json of deep nesting": (replaced("data.json", "[" * 100_000), "expected JSON in .*data.json"),
    "data.json with a number as its folder": (
        replaced("data.json", {"folder": 5}), "expected the folder and datasets of a run in .*delete it"
    ),
    "data.json with a list of datasets": (
        replaced("data.json", {"datasets": ["x" * 10**6]}), "expected the folder and datasets of a run"
    ),
    "data.json of 100 MB": (replaced("data.json", 10**8), "expected a file of at most .*data.json"),
    "data.json that is a pipe": (with_fifo("data.json"), "expected a file of at most .*data.json"),
    "vocabularies.json that is a list": (replaced("vocabularies.json", []), "expected a JSON object"),
    "vocabularies.json with a number": (
        replaced("vocabularies.json", {"data/text": 7}), "expected the digests of vocabularies"
    ),
    "vocabularies.json that names another folder": (escaping, "found others for data/text"),
    "vocabularies.json of another vocabulary": (
        replaced("vocabularies.json", {"data/text": "0" * 64}), "found others for data/text"
    ),
    "tokenizer.json that is empty": (
        replaced(TOKENIZER, ""), "as the tokenizers library writes it in .*delete it"
    ),
    "tokenizer.json that is no tokenizer": (
        replaced(TOKENIZER, {"model": 5}), "as the tokenizers library writes"
    ),
    "tokenizer.json of another model": (of_another_model, "expected a WordPiece with .*found BPE"),
    "tokenizer.json of 300 MB": (replaced(TOKENIZER, 3 * 10**8), "found a larger file"),
    "tokenizer.json that is a pipe": (with_fifo(TOKENIZER), "found no such file"),
    "tokenizer.json without [MASK]": (
        changed_tokenizer(lambda vocab: vocab.pop("[MASK]")), "with .*'.MASK.': None"
    ),
    "tokenizer.json with one token more": (
        changed_tokenizer(lambda vocab: vocab.update(zebra=len(vocab))),
        f"expected vocab_size={VOCAB}, found 31",
    ),
    "tokenizer.json with two ids exchanged": (changed_tokenizer(swapped), "found others for data/text"),
}  # fmt: skip

CASES = (
    *FIELDS,
    *OPENED,
    *(
        Case(FAMILY, name, "refused", opened_with(damage), message=message)
        for name, (damage, message) in HOSTILE.items()
    ),
)
