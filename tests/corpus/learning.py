"""Training that would learn from nothing, or from the wrong thing."""

import dataclasses
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image as Pillow

from corpus.case import Case
from mmjax import data, evals, heads, objectives, training, views
from mmjax.batch import RECORDS, Encoded, Image, Labels, MultiLabels, Text
from mmjax.experiment import Experiment
from mmjax.experiment.validation import validate
from mmjax.objectives import Mean, Outputs, mean_over_batches, with_weights
from mmjax.objectives.contrastive import PairMask, info_nce
from mmjax.run.data_checks import check_data, describe_records
from mmjax.testing import VOCAB, tiny_model, tiny_objectives
from mmjax.training.metrics import Meter

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


# Numbers of batches that lack rows.


def info_nce_loop(logits: np.ndarray, positives: np.ndarray) -> float:
    """The mean over rows and columns of `log sum exp - mean logit of the positives`, in float64."""
    losses = []
    for scores, is_positive in ((logits, positives), (logits.T, positives.T)):
        for row, positive in zip(scores, is_positive, strict=True):
            losses.append(np.log(np.exp(row).sum()) - row[positive].mean())
    return float(np.mean(losses))


LOGITS = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
TWINS = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], bool)  # rows 0 and 2 are equal


def repeated_record(_: Path) -> float:
    pairs = PairMask(jnp.ones(4, bool), record=jnp.array([7, 3, 7, 9]))
    return float(info_nce(jnp.asarray(LOGITS), jnp.eye(4), 1.0, pairs)[0])


def embeddings_of(view: views.View) -> tuple[objectives.InfoNCE, Outputs]:
    """Rows 0 and 2 hold one caption, which the view masks differently."""
    tokens = jnp.array([[2, 7, 8, 9], [2, 5, 6, 7], [2, 7, 8, 9], [2, 9, 8, 7]])
    caption = Text(
        tokens, tokens > 0, jnp.zeros_like(tokens), jnp.arange(4)[None] + jnp.zeros_like(tokens) - 1
    )
    batch = {"image": Image(jnp.ones((4, 2, 2, 3)), jnp.ones(4, bool)), "text": caption}
    changed, targets = view.transform_batch(views.remember_contents(batch, ("text",)), jax.random.key(0))
    predictions = {"image": jnp.asarray(LOGITS), "text": jnp.eye(4)}
    return objectives.InfoNCE("image", "text", match_by="text", view=view), Outputs(
        predictions, targets, changed
    )


def masked_twins(_: Path) -> float:
    module, outputs = embeddings_of(views.MaskTokens("text", vocab=31, rate=0.5))
    assert len({*map(bytes, np.asarray(outputs.batch["text"].tokens))}) == 4, "the masked captions differ"
    loss, _ = module.apply({"params": {"log_scale": jnp.float32(0)}}, outputs)
    return float(loss.value)


def dropped_twins(_: Path) -> float:
    """The caption only tells which rows are equal; it is dropped for the model."""
    module, outputs = embeddings_of(views.DropStreams((("text", 1.0),)))
    module = module.clone(streams=("image", "image"))
    loss, _ = module.apply({"params": {"log_scale": jnp.float32(0)}}, outputs)
    return float(loss.value)


def hard_negatives_of_twins(_: Path) -> bool:
    """Whether a masked copy of a row's caption, or its own record, is ever its negative."""
    _, outputs = embeddings_of(views.MaskTokens("text", vocab=31, rate=0.5))
    batch = outputs.batch | {
        RECORDS: dataclasses.replace(outputs.batch[RECORDS], index=jnp.array([0, 1, 2, 1]))
    }
    batch["image"] = Image(jnp.arange(4.0)[:, None, None, None] * jnp.ones((4, 2, 2, 3)), jnp.ones(4, bool))
    rows = jnp.arange(4.0)[:, None, None]
    encoded = {name: Encoded(rows, jnp.ones((4, 1), bool)) for name in ("image", "text")}
    draw = jax.jit(jax.vmap(lambda key: HARD.transform_encoded(encoded, outputs.predictions, batch, key)[0]))
    paired = draw(jax.random.split(jax.random.key(0), 64))
    images, texts = (np.asarray(paired[name].embeddings)[:, 4:, 0, 0] for name in ("image", "text"))
    twins = {(0, 2), (2, 0), (1, 3), (3, 1)}
    return bool(twins & {*zip(images.ravel(), texts.ravel(), strict=True)})


def loaded_records(_: Path) -> bool:
    """In a batch of 16 rows of 6 records: whether rows have one number exactly if they have one text."""
    batch, _ = next(data.batches(data.Mixture.of(letters(6), batch_size=16), seed=0, start_step=0))
    texts, numbers = batch["text"].tokens[:, 1], batch[RECORDS].index
    return bool(((texts[:, None] == texts[None]) == (numbers[:, None] == numbers[None])).all())


def numbers_in_two_datasets(_: Path) -> int:
    """How many records a batch of all 4 + 4 rows of two datasets holds."""
    datasets = {"a": (1.0, letters(4)), "b": (1.0, letters(4))}
    batch, _ = next(data.batches(data.Mixture(datasets, batch_size=8), seed=0, start_step=0))
    return len({*batch[RECORDS].index.tolist()})


def logged(*steps: dict[str, float | Mean]) -> dict[str, float]:
    """What a log line shows of these steps."""
    meter = Meter(batch_size=8, flops_per_step=1.0)
    for step in steps:
        meter.add(with_weights(step), 0.0)
    row = meter.read(len(steps))
    return {
        name: row[name] for name in row if "second" not in name and name not in ("input_wait_share", "mfu")
    }


def accuracy_of(outputs: Outputs, module: objectives.Objective, params: dict | None = None) -> list[float]:
    """[loss, its weight, accuracy's weight]."""
    loss, metrics = module.apply({"params": params or {}}, outputs)
    return [float(loss.value), float(loss.weight), float(metrics["accuracy"].weight)]


def one_pair(_: Path) -> list[float]:
    _, outputs = embeddings_of(views.Identity())
    only_first = Image(outputs.batch["image"].pixels, jnp.arange(4) == 0)
    outputs = outputs.replace(batch=outputs.batch | {"image": only_first})
    return accuracy_of(outputs, objectives.InfoNCE("image", "text"), {"log_scale": jnp.float32(0)})


def matching_without_negatives(_: Path) -> float:
    targets = {"matches": jnp.arange(6) < 2, "valid": jnp.arange(6) < 2}
    outputs = Outputs({"matches": jnp.ones(6)}, targets, {})
    return accuracy_of(outputs, objectives.Matching("matches", view=views.Identity()))[1]


def f1_of_two_batches(_: Path) -> float:
    """The F1 score of all labels, of batches with 1 and with 5 positive labels."""
    module, measured = objectives.MultiLabel("classes"), []
    for logits, labels in F1_BATCHES:
        batch = {"labels": MultiLabels(jnp.asarray(labels), jnp.ones(labels.shape, bool))}
        _, metrics = module.apply({}, Outputs({"classes": jnp.asarray(logits)}, {}, batch))
        measured.append({name: np.asarray(x) for name, x in with_weights(metrics).items()})
    return mean_over_batches(measured)["f1"]


F1_BATCHES = [
    (np.array([[1.0, -1.0, -1.0]]), np.array([[True, False, False]])),
    (np.array([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]]), np.array([[True, False, True], [False, True, True]])),
]


def f1_score() -> float:
    predicted = np.concatenate([(logits > 0).ravel() for logits, _ in F1_BATCHES])
    true = np.concatenate([labels.ravel() for _, labels in F1_BATCHES])
    return 2 * float((predicted & true).sum()) / float(predicted.sum() + true.sum())


def held_out(module: objectives.Objective, batches: list[Outputs]) -> float:
    """The loss that an evaluation reports for these batches."""
    measured = []
    for outputs in batches:
        loss, _ = module.apply({}, outputs)
        measured.append({name: np.asarray(x) for name, x in with_weights({"loss": loss}).items()})
    return mean_over_batches(measured, [4.0] * len(batches))["loss"]


def half_labelled(_: Path) -> float:
    """The loss of two batches of four rows, in which 4 and 1 rows have a label."""
    labels = Labels(jnp.array([0, 1, 0, 1]), jnp.ones(4, bool))
    one = labels.replace(mask=jnp.arange(4) == 3)
    batches = [Outputs({"classes": jnp.asarray(LOGITS[:, :2])}, {}, {"label": x}) for x in (labels, one)]
    return held_out(objectives.Classification("classes"), batches)


def half_labelled_loop() -> float:
    losses = [float(np.log(np.exp(LOGITS[row, :2]).sum()) - LOGITS[row, row % 2]) for row in (0, 1, 2, 3, 3)]
    return float(np.mean(losses))


def number(name: str, give: Callable, expected, within: float = 1e-6) -> Case:
    return Case(FAMILY, name, "right", give, expected=expected, within=within)


NUMBERS = [
    number("a record twice in a batch is its own positive", repeated_record, info_nce_loop(LOGITS, TWINS)),
    number("masked copies of one caption are positives", masked_twins, info_nce_loop(LOGITS, TWINS)),
    number("rows are equal by a caption that a view drops", dropped_twins, info_nce_loop(LOGITS, TWINS)),
    number("hard negatives are no masked copies", hard_negatives_of_twins, False),
    number("a batch larger than its data knows its repeats", loaded_records, True),
    number("records of two datasets are different", numbers_in_two_datasets, 8),
    number("a single pair has no weight", one_pair, [0.0, 0.0, 0.0]),
    number("matching without a negative has no weight", matching_without_negatives, 0.0),
    number("the F1 score of two unequal batches", f1_of_two_batches, f1_score()),
    number("the loss of batches with 4 and 1 labels", half_labelled, half_labelled_loop()),
    number("a step without rows does not dilute the log",
           lambda _: logged({"loss/a": Mean(2.0, 4.0)}, {"loss/a": Mean(0.0, 0.0)}), {"loss/a": 2.0}),
    number("steps without any row log nothing",
           lambda _: logged({"loss/a": Mean(0.0, 0.0), "loss": 1.0}, {"loss/a": Mean(0.0, 0.0), "loss": 3.0}),
           {"loss": 2.0}),
    number("steps are weighted by their rows",
           lambda _: logged({"loss/a": Mean(1.0, 1.0)}, {"loss/a": Mean(5.0, 3.0)}), {"loss/a": 4.0}),
    number("the perplexity of two batches of 3 and of 1 tokens",
           lambda _: logged({"it/perplexity": Mean(8.0, 3.0)},
                            {"it/perplexity": Mean(128.0, 1.0)})["it/perplexity"], 16.0),
    number("a scalar counts equally in each step",
           lambda _: logged({"a/temperature": 1.0}, {"a/temperature": 3.0}), {"a/temperature": 2.0}),
]  # fmt: skip

CASES: tuple[Case, ...] = (*ABSENT, *SHARES, *FOREIGN, *LONELY, *NUMBERS)
