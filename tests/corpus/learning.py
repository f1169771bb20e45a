"""Training that would learn from nothing, or from the wrong thing."""

import dataclasses
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from corpus.case import Case
from mmjax import data, evals, heads, objectives, training, views
from mmjax.experiment import Experiment
from mmjax.experiment.validation import validate
from mmjax.run.data_checks import check_data, describe_records
from mmjax.testing import VOCAB, tiny_model, tiny_objectives

FAMILY = "learning"


@dataclasses.dataclass(frozen=True)
class Letters(data.TokenizerSpec, data.Vocabulary):
    """A tokenizer, its spec and its vocabulary in one: each letter is a token; the special ids are given."""

    ids: tuple[tuple[str, int], ...] = (("pad", 0), ("unk", 1), ("cls", 2), ("sep", 3), ("mask", 4))
    vocab_size = size = 31

    @property
    def special_ids(self):
        return dict(self.ids)

    def open(self):
        return self

    def digest(self):
        return repr(self)

    def encode(self, text):
        return [5 + ord(letter) % 26 for letter in text], [0] * len(text)

    def decode(self, ids):
        return " ".join(map(str, ids))


BERT = Letters((("pad", 0), ("unk", 10), ("cls", 11), ("sep", 12), ("mask", 13)))
GPT2 = Letters((("pad", 30), ("unk", 30), ("cls", 30), ("sep", 30)))


def jpeg() -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def write_tar(path: Path, examples: list[dict[str, bytes]], name: str = "{:03d}") -> str:
    """A tar with a member `name.field` for each field of each example."""
    with tarfile.open(path, "w") as tar:
        for number, example in enumerate(examples):
            for field, raw in example.items():
                member = tarfile.TarInfo(f"{name.format(number)}.{field}")
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))
    return str(path)


def image(field: str | tuple[str, ...] = "jpg", *, optional: bool = True) -> data.ImageTransform:
    return data.ImageTransform(field, size=(8, 8), optional=optional)


def text(
    field: str | tuple[str, ...] = "txt", tokenizer: data.TokenizerSpec = Letters(), **fields
) -> data.TextTransform:
    return data.TextTransform(field, tokenizer=tokenizer, length=8, optional=True, **fields)


def letters(num: int = 8, tokenizer: data.TokenizerSpec = Letters()) -> data.Dataset:
    """Records in memory with every stream of `mmjax.testing.tiny_model`."""
    source = data.Arrays({
        "image": np.arange(num * 192, dtype=np.uint8).reshape(num, 8, 8, 3),
        "audio": np.linspace(-1, 1, num * 800, dtype=np.float32).reshape(num, 800),
        "text": np.array([chr(97 + n) * 3 for n in range(num)]),
    })  # fmt: skip
    streams = {
        "image": image("image"),
        "audio": data.AudioTransform("audio", sample_rate_hz=8000, seconds=0.1, optional=True),
        "text": text("text", tokenizer),
        "keywords": text("text", tokenizer),
    }
    return data.Dataset(source, streams)


def experiment(
    datasets: dict[str, tuple[float, data.Dataset]] | data.Dataset | None = None,
    objective: objectives.Objective | None = None,
    *,
    batch_size: int = 8,
    num_steps: int = 4,
    **evaluations: evals.Eval,
) -> Experiment:
    """The tiny model with one objective."""
    if not isinstance(datasets, dict):
        datasets = {"data": (1.0, datasets or letters())}
    return Experiment(
        name="tiny",
        num_steps=num_steps,
        data=data.Mixture(datasets, batch_size=batch_size),
        model=tiny_model(),
        objectives={"it": objective or objectives.InfoNCE("image", "text")},
        optimizer=training.AdamW(peak_learning_rate=1e-3),
        evals=evaluations,
    )


# Fields that match no record.


def shards(
    folder: Path, examples: list[dict[str, bytes]], streams: dict, name: str = "{:03d}"
) -> data.Dataset:
    return data.Dataset(data.WebDataset(write_tar(folder / "train.tar", examples, name)), streams)


def absent(name: str, message: str, example: dict[str, bytes], streams: dict, key: str = "{:03d}") -> Case:
    """All records are like `example`."""

    def give(folder):
        check_data(experiment(shards(folder, [example] * 4, streams, key)))

    return Case(FAMILY, name, "refused", give, message)


PAIR = {"jpg": b"", "txt": b"a"}
ABSENT = [
    absent("jpeg where the field is jpg", "no record of the dataset 'data' has the stream 'image'.*jpeg",
           {"jpeg": jpeg(), "txt": b"a"}, {"image": image(), "text": text()}),
    absent("png where the field is jpg", "stream 'image'.*'png'", {"png": jpeg(), "txt": b"a"},
           {"image": image(), "text": text()}),
    absent("dots in base names", "stream 'image'.*2.jpg", {"jpg": jpeg(), "txt": b"a"},
           {"image": image(), "text": text()}, "photo.{}.2"),
    absent("a stream that is not optional", "stream 'image'", {"jpeg": jpeg(), "txt": b"a"},
           {"image": image(optional=False), "text": text()}),
    absent("none of several paths", "stream 'image'.*'webp'", {"jpg": jpeg(), "txt": b"a"},
           {"image": image(("webp", "avif")), "text": text()}),
    absent("a misspelt key of JSON", "stream 'text'.*captoin", {"jpg": jpeg(), "json": b'{"caption": "a"}'},
           {"image": image(), "text": text("json.captoin")}),
    absent("a key of JSON inside a list", "stream 'text'",
           {"jpg": jpeg(), "json": b'{"names": [{"en": "a"}]}'},
           {"image": image(), "text": text("json.names.en")}),
    absent("a key of JSON that is always null", "stream 'text'.*null",
           {"jpg": jpeg(), "json": b'{"caption": null}'}, {"image": image(), "text": text("json.caption")}),
    absent("lists of keywords that are all empty", "stream 'text'.*empty list",
           {"jpg": jpeg(), "json": b'{"k": []}'}, {"image": image(), "text": text("json.k")}),
    absent("a label of another field", "stream 'label'.*'json.class'",
           {"jpg": jpeg(), "json": b'{"label": 1}'},
           {"image": image(), "label": data.LabelTransform("json.class", optional=True)}),
]  # fmt: skip


def absent_in_evaluation(folder: Path) -> None:
    complete = shards(folder, [{"jpg": jpeg(), "txt": b"a"}] * 4, {"image": image(), "text": text()})
    test = data.WebDataset(write_tar(folder / "test.tar", [{"jpeg": jpeg(), "txt": b"a"}] * 2))
    held_out = dataclasses.replace(complete, source=test)
    check_data(experiment(complete, retrieval=evals.Retrieval(data=held_out, heads=("image", "text"))))


def absent_in_one_of_two(folder: Path) -> None:
    bare = data.Dataset(data.Arrays({"text": np.array(["a", "b"])}), {"text": text("text"), "image": image()})
    check_data(experiment({"complete": (1.0, letters()), "bare": (1.0, bare)}))


def shares(folder: Path, examples: list[dict[str, bytes]]) -> list[str]:
    return describe_records(experiment(shards(folder, examples, {"image": image(), "text": text()})))


def rare(folder: Path) -> str:
    """One of 1,000 records has an image, and a sample of 256 may miss it: looking on finds it."""
    examples = [{"txt": b"a"}] * 999
    examples.insert(500, {"jpg": jpeg(), "txt": b"a"})
    check_data(experiment(shards(folder, examples, {"image": image(), "text": text()})))
    return "accepted"


def never_together(folder: Path) -> None:
    """Pictures and captions are different records: the names before the dot differ."""
    examples = [{"jpg": jpeg()}, {"txt": b"a"}] * 4
    check_data(experiment(shards(folder, examples, {"image": image(), "text": text()})))


SHARES = [
    Case(FAMILY, "pictures and captions that are never one record", "refused", never_together,
         "no record of the data has all of them"),
    Case(FAMILY, "a stream that one of two datasets declares and lacks", "refused", absent_in_one_of_two,
         "the dataset 'bare' has the stream 'image'"),
    Case(FAMILY, "a stream that an evaluation's data lack", "refused", absent_in_evaluation,
         "the data of eval 'retrieval' has the stream 'image'"),
    Case(FAMILY, "a stream in one of 1,000 records", "right", rare, expected="accepted"),
    Case(FAMILY, "upper-case extensions are found", "right",
         lambda folder: shares(folder, [{"JPG": jpeg(), "TXT": b"a"}] * 4),
         expected=["the dataset 'data': 4 records; 4 looked at: image 100 %, text 100 %"]),
    Case(FAMILY, "the share of records with an image is shown", "right",
         lambda folder: shares(folder, [{"jpg": jpeg(), "txt": b"a"}] * 10 + [{"txt": b"a"}] * 30),
         expected=["the dataset 'data': 40 records; 40 looked at: image 25 %, text 100 %"]),
    Case(FAMILY, "a single picture among 256 captions is not 0 %", "right",
         lambda folder: shares(folder, [{"jpg": jpeg(), "txt": b"a"}] + [{"txt": b"a"}] * 255),
         expected=["the dataset 'data': 256 records; 256 looked at: image 1 %, text 100 %"]),
]  # fmt: skip


# Token ids of another tokenizer.


def foreign(name: str, message: str, objective: objectives.Objective, tokenizer: Letters = Letters()) -> Case:
    return Case(
        FAMILY,
        name,
        "refused",
        lambda _: check_data(experiment(letters(tokenizer=tokenizer), objective)),
        message,
    )


def masked(view: views.View) -> objectives.Objective:
    return objectives.MaskedLanguage("words", view=view)


MASK, SENTENCES = views.MaskTokens("text", vocab=31), views.SentencePairs("text", "keywords")
FOREIGN = [
    foreign("MaskTokens with [MASK] of another tokenizer", "put mask_id=13", masked(MASK), BERT),
    foreign("MaskTokens for a tokenizer without [MASK]", "special token 'mask'", masked(MASK), GPT2),
    foreign("MaskTokens with a larger vocabulary", "put vocab=31",
            masked(views.MaskTokens("text", vocab=32))),
    foreign("MaskTokens with a smaller vocabulary", "put vocab=31",
            masked(views.MaskTokens("text", vocab=30))),
    foreign("MaskSpans with [MASK] of another tokenizer", "put mask_id=13",
            masked(views.MaskSpans("text", vocab=31)), BERT),
    foreign("a foreign [MASK] inside a Chain", "put mask_id=13",
            masked(views.Chain((views.DropStreams((("image", 0.5),)), MASK))), BERT),
    foreign("a foreign [MASK] in a text that another view makes", "'pair'.*put mask_id=13",
            masked(views.Chain((SENTENCES, views.MaskTokens("pair", vocab=31)))), BERT),
    foreign("CorruptSpans whose sentinels are words", "sentinels",
            masked(views.CorruptSpans("text", vocab=20, target_length=8))),
    foreign("CorruptSpans with [SEP] of another tokenizer", "put sep_id=12",
            masked(views.CorruptSpans("text", vocab=31, target_length=8)), BERT),
    foreign("CTC whose blank is a letter", "blank_id=0 is a token.*blank_id=30",
            objectives.CTC("frames"), GPT2),
    foreign("CTC whose blank is [UNK]", "blank_id=1 is a token", objectives.CTC("frames", blank_id=1)),
]  # fmt: skip


def with_frames(blank_id: int) -> Experiment:
    base = experiment(objective=objectives.CTC("frames", blank_id=blank_id))
    frames = {"frames": heads.FrameLogits("audio", vocab=VOCAB)}
    return dataclasses.replace(base, model=base.model.clone(heads={**base.model.heads, **frames}))


def accepted(value: Experiment) -> str:
    validate(value)
    check_data(value)
    return "accepted"


FOREIGN += [
    Case(FAMILY, "CTC whose blank is beyond the head's logits", "refused",
         lambda _: validate(with_frames(32)),
         "blank_id=32 is beyond the logits"),
    Case(FAMILY, "CTC whose blank is no token of the tokenizer", "right", lambda _: accepted(with_frames(31)),
         expected="accepted"),
    Case(FAMILY, "transcripts whose blank is a letter", "refused",
         lambda _: check_data(
             experiment(transcripts=evals.Transcripts(data=letters(), head="frames", blank_id=9))),
         "eval 'transcripts': blank_id=9 is a token"),
]  # fmt: skip


# Too few rows.


def lonely(name: str, objective: objectives.Objective) -> Case:
    return Case(
        FAMILY, f"a batch of one row for {name}", "refused",
        lambda _: validate(experiment(objective=objective, batch_size=1)),
        "data.batch_size of at least 2, found 1",
    )  # fmt: skip


HARD = views.HardNegatives("image", "text", heads=("image", "text"))
LONELY = [
    lonely("InfoNCE", objectives.InfoNCE("image", "text")),
    lonely("SigmoidPairs", objectives.SigmoidPairs("image", "text")),
    lonely("MultiwayInfoNCE", objectives.MultiwayInfoNCE(("image", "text", "audio"))),
    lonely("hard negatives", objectives.Matching("matches", view=HARD)),
    lonely("pairs of sentences", objectives.NextSentence("follows", view=SENTENCES)),
    lonely("a chain with pairs of sentences",
           objectives.NextSentence("follows", view=views.Chain((views.Prefix("text"), SENTENCES)))),
    Case(FAMILY, "held-out contrast in batches of one", "refused",
         lambda _: validate(experiment(held_out=evals.Losses(data=letters(), batch_size=1))),
         "evals.held_out.batch_size of at least 2"),
    Case(FAMILY, "a batch of one row for masked words", "right",
         lambda _: accepted(experiment(objective=tiny_objectives()["words"].clone(
             view=views.MaskTokens("text", vocab=31)), batch_size=1)), expected="accepted"),
    Case(FAMILY, "contrast over a single record", "refused", lambda _: check_data(experiment(letters(1))),
         "at least 2 of them, found 1"),
    Case(FAMILY, "a dataset without a record", "refused", lambda _: check_data(experiment(letters(0))),
         "expected examples in the dataset 'data', found none"),
    Case(FAMILY, "a weight that gives no row", "refused",
         lambda _: validate(experiment(
             {"a": (1.0, letters()), "b": (1e-4, letters()), "c": (1.0, letters())})),
         "the dataset 'b', of weight 0.0001, gives none of the 32 rows"),
    Case(FAMILY, "a first dataset whose weight gives no row", "refused",
         lambda _: validate(experiment({"a": (1e-12, letters()), "b": (1.0, letters(9))})),
         "the dataset 'a', of weight 1e-12, gives none"),
]  # fmt: skip

CASES: tuple[Case, ...] = (*ABSENT, *SHARES, *FOREIGN, *LONELY)
