"""Evaluations: the numbers of libraries of record, and data that cannot be evaluated.

Numbers of libraries were computed once in the environment of `make peers`, by the call beside them. The rest
are fractions that one can count.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from corpus.case import Case
from mmjax import data, evals
from mmjax.errors import NonFiniteError
from mmjax.heads import MaskedLogits

NAN, INF = float("nan"), float("inf")
ROWS = 4  # of a batch


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Records in memory: a source that is its own reader."""

    records: tuple[dict[str, Any], ...]

    def open(self):
        return self

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return {"__key__": str(index)} | self.records[index]

    def identity(self):
        return {"records": len(self)}


def dataset(streams: dict[str, data.Transform], *records: dict[str, Any]) -> data.Dataset:
    return data.Dataset(Records(records), streams)


def measure(evaluation: evals.Eval, predict: Callable[[dict], Any], names: str | tuple[str, ...]) -> Any:
    """The named metrics, given predictions `predict(batch)`; "not finite" if the evaluation says so."""

    def predictor(batch, view, heads, seed=0):
        predicted = predict(batch)
        return (predicted if isinstance(predicted, dict) else dict.fromkeys(heads, predicted)), {}

    try:
        metrics = evaluation(predictor).metrics
    except NonFiniteError:
        return "not finite"
    if isinstance(names, str):
        return metrics[names]
    return [metrics.get(name, -1.0) for name in names]  # -1: left out


def right(name: str, give: Callable[[], Any], expected: Any) -> Case:
    if not isinstance(expected, str):
        expected = np.asarray(expected, float)
    return Case("evaluation", name, "right", lambda folder: give(), expected=expected, within=1e-6)


def refused(name: str, give: Callable[[], Any], message: str) -> Case:
    return Case("evaluation", name, "refused", lambda folder: give(), message=message)


# --- Texts. The vocabulary is trained on these, and lacks every other letter.

SPOKEN = ("i don't like red-haired foxes , do you ?", "he came from the u.s. with 3.5 cats", "caf\xe9 . !")


@functools.cache
def vocabulary() -> data.WordPiece:
    # As large as it gets, so that a word of SPOKEN is one token.
    return data.WordPiece(data.Arrays({"text": list(SPOKEN)}), ("text",), vocab_size=82)


def text_stream(length: int = 24) -> data.TextTransform:
    return data.TextTransform("text", vocabulary(), length=length)


def transcribe(
    pairs: list[tuple[str, str]], names: Any = "word_error_rate", length: int = 24, **fields: Any
) -> Any:
    """The error rates of (the record's text, the text whose tokens the model predicts) pairs."""
    tokens = vocabulary().open()
    spoken = [tokens.encode(predicted)[0] for _, predicted in pairs]
    streams = {"text": text_stream(length), "audio": data.AudioTransform("audio", 8000, 0.01)}
    sound = np.full(80, 0.1, np.float32)
    examples = dataset(streams, *({"text": true, "audio": sound} for true, _ in pairs))

    def predict(batch):
        logits = np.zeros((ROWS, 80, tokens.size), np.float32)
        for row, ids in enumerate(spoken):
            frames = [token for each in ids for token in (each, tokens.pad_id)]  # a blank after each
            logits[row, np.arange(80), frames + [tokens.pad_id] * (80 - len(frames))] = 1
        return MaskedLogits(logits, np.ones((ROWS, 80), bool))

    evaluation = evals.Transcripts(data=examples, head="frames", batch_size=ROWS, **fields)
    return measure(evaluation, predict, names)


KEEP = {"ignore_punctuation": False}
TEXTS = [
    ("equal texts", [(SPOKEN[0], SPOKEN[0])], {}, 0),
    ("an unknown word, whose tokens are equal", [("red \u2603 foxes", "red \u2603 foxes")], {}, 1 / 3),
    ("two other unknown words", [("\u2603 like \u2602", "\u2602 like \u2603")], {}, 2 / 3),
    ("more words than the stream has room for", [("i like cats from the red foxes", "i like cats")],
     {"length": 5}, 4 / 7),
    ("capitals", [("I LIKE Cats", "i like cats")], {}, 0),
    ("capitals, if they count", [("I LIKE cats", "i like cats")], {"ignore_case": False}, 2 / 3),
    ("punctuation at words", [("red, foxes! do you?", "red foxes do you")], {}, 0),
    ("an apostrophe", [("I don't", "i don't")], {}, 0),
    ("an apostrophe, if it counts", [("i don't", "i don't")], KEEP, 0),
    ("a hyphen is in one word", [("red-haired foxes", "foxes")], {}, 1 / 2),
    ("an abbreviation", [("the U.S.", "the u.s.")], {}, 0),
    ("a number with a point", [("3.5 cats", "3.5 cats")], KEEP, 0),
    ("punctuation, if it counts", [("i like cats.", "i like cats")], KEEP, 1 / 3),
    ("nothing predicted", [("i like cats", "")], {}, 1),
    ("more words than there are", [("cats", "i like red cats")], {}, 3),
    ("decomposed accents", [("cafe\u0301", "caf\xe9")], {}, 0),
    ("several spaces", [("i   like\tcats", "i like cats")], {}, 0),
    # jiwer.wer(["i like cats", "do"], ["i like foxes", "do you"])
    ("texts of different lengths count by their words", [("i like cats", "i like foxes"), ("do", "do you")],
     {}, 0.5),
    # jiwer.cer("i like red foxes", "i like cats")
    ("characters", [("i like red foxes", "i like cats")], {"names": "character_error_rate"}, 0.5),
]  # fmt: skip


# --- Tags


def tag(
    rows: list[tuple[str, str, str]], names: Any, length: int = 24, classes: str = "O B-a I-a B-b I-b"
) -> Any:
    """The metrics of (words, true tags, predicted tags) of sentences."""
    words = data.TextTransform("words", vocabulary(), length=length, pretokenized=True)
    kinds = tuple(classes.split())
    streams = {"text": words, "tags": data.TagTransform("tags", text=words, classes=kinds)}
    examples = dataset(streams, *({"words": text, "tags": tags} for text, tags, _ in rows))

    def predict(batch):
        logits = np.zeros((ROWS, length, len(kinds)), np.float32)
        for row, (_, _, predicted) in enumerate(rows):
            for position in np.flatnonzero(np.asarray(batch["tags"].mask)[row]):
                word = np.asarray(batch["text"].words)[row, position]
                logits[row, position, kinds.index(predicted.split()[word])] = 1
        return logits

    return measure(evals.Tags(data=examples, head="x", batch_size=ROWS), predict, names)


ENTITIES = ("entity_precision", "entity_recall", "entity_f1", "entity_macro_f1", "num_entities")
TAGS = [
    ("entities", [("red foxes like cats", "B-a I-a O B-b", "B-a I-a O B-a")], ENTITIES,
     [1 / 2, 1 / 2, 1 / 2, 1 / 3, 2]),
    # seqeval.metrics.classification_report(mode="strict", scheme=IOB2)
    ("an entity that does not begin with B", [("red foxes like cats", "B-a I-a O B-b", "I-a I-a O B-b")],
     ENTITIES, [1, 1 / 2, 2 / 3, 1 / 2, 2]),
    ("entities that are only predicted", [("red foxes", "O O", "B-a B-b")], ENTITIES, [0, 0, 0, 0, 0]),
    ("no entity at all", [("red foxes", "O O", "O O")], ("accuracy", *ENTITIES), [1, -1, -1, -1, -1, -1]),
    ("words without room", [("red foxes like cats", "B-a O O B-b", "B-a O O B-b")],
     ("accuracy", "entity_recall", "num_words", "num_untagged_words"), [2 / 4, 1 / 2, 4, 2]),
]  # fmt: skip


def other_classes():
    rows = [("red foxes", "B-a O", "B-a O")]
    return tag(rows, ("accuracy", "entity_f1"), classes="O B-a NOUN")


# --- Boxes

A, B, C = [0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.2, 0.7, 0.2, 0.2]
NEAR_A = [0.21, 0.2, 0.2, 0.2]  # IoU .905


def detect(
    images: list[Any], found: list[list[tuple[list[float], float]]], names: Any, crowd: Any = None
) -> Any:
    """The metrics of images, each a list of true boxes or None, and (box, score) detections in them."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    records = []
    for number, boxes in enumerate(images):
        record: dict[str, Any] = {"image": pixels}
        record |= {} if boxes is None else {"boxes": boxes, "names": ["cat"] * len(boxes)}
        records.append(record | ({"crowd": crowd[number]} if crowd else {}))
    streams = {
        "image": data.ImageTransform("image", (8, 8)),
        "boxes": data.BoxesTransform("boxes", "names", ("cat",), max_boxes=4, format="cxcywh", optional=True),
    }

    def predict(batch):
        predicted = np.zeros((ROWS, max(map(len, found)), 6), np.float32)
        predicted[..., 5] = 50  # no object
        for row, each in enumerate(found):
            for n, (box, score) in enumerate(each):
                predicted[row, n] = [*box, np.log(score), np.log(1 - score)]
        return predicted

    evaluation = evals.Boxes(
        data=dataset(streams, *records), head="x", batch_size=ROWS, crowd="crowd" if crowd else None
    )
    return measure(evaluation, predict, names)


COCO = ("coco/AP", "coco/AP50", "coco/AP75", "mAP50")
# pycocotools.cocoeval.COCOeval, area "all", maxDets 100
BOXES = [
    ("one of two objects found", [[A, B]], [[(A, 0.9)]], COCO, [51 / 101, 51 / 101, 51 / 101, 0.5]),
    ("a box a little beside", [[A]], [[(NEAR_A, 0.9)]], COCO, [0.9, 1, 1, 1]),
    ("an object found twice", [[A]], [[(A, 0.9), (NEAR_A, 0.8)]], COCO, [1, 1, 1, 1]),
    ("a wrong box of a higher score", [[A]], [[(B, 0.9), (A, 0.8)]], COCO, [0.5, 0.5, 0.5, 0.5]),
    ("a detection in an image without objects", [[A], []], [[(A, 0.6)], [(A, 0.9)]],
     ("mAP50", "coco/AP", "num_pictures"), [0.5, 0.5, 2]),
    ("a detection in an image without annotations", [[A], None], [[(A, 0.6)], [(A, 0.9)]],
     ("mAP50", "coco/AP", "num_pictures"), [1, 1, 1]),
    ("more than 100 detections", [[A]], [[(B, 0.9)] * 100 + [(A, 0.8)]], ("coco/AP50", "mAP50"),
     [0, 1 / 101]),
    ("nothing found", [[A]], [[]], COCO, [0, 0, 0, 0]),
]  # fmt: skip


# --- Classes

GREY = np.zeros((8, 8, 3), np.uint8)


def classify(
    labels: list[int], logits: Any, names: Any, has_image: bool = True, has_label: bool = True
) -> Any:
    logits = np.asarray(logits, np.float32)
    streams = {
        "image": data.ImageTransform("image", (8, 8), optional=True),
        "label": data.LabelTransform("label", optional=True),
    }
    image, label = {"image": GREY} if has_image else {}, lambda n: {"label": n} if has_label else {}
    examples = dataset(streams, *({"other": 0} | image | label(n) for n in labels))
    evaluation = evals.Classification(
        data=examples, head="x", streams=("image",), batch_size=len(logits) or 1
    )
    return measure(evaluation, lambda batch: logits, names)


EYE = np.eye(6)
PROBABILITIES = [
    [0.5, 0.3, 0.2], [0.1, 0.58, 0.32], [0.45, 0.4, 0.15], [0.21, 0.11, 0.68], [0.62, 0.26, 0.12],
    [0.32, 0.29, 0.39],
]  # fmt: skip
SCORES = np.log(PROBABILITIES)
CLASSES = [
    # sklearn.metrics.f1_score([0, 1, 0, 1], [0, 1, 2, 1], average="macro") is (2/3 + 1 + 0) / 3
    ("a class that is never true", [0, 1, 0, 1], EYE[[0, 1, 2, 1]], "f1", 5 / 9),
    ("one class only", [1, 1], EYE[[1, 1]], ("accuracy", "auroc", "f1"), [1, -1, 1]),
    ("one example", [2], EYE[[2]], ("accuracy", "accuracy/majority", "auroc"), [1, 1, -1]),
    # sklearn.metrics.roc_auc_score([0, 1, 2, 2, 0, 1], softmax, multi_class="ovr", average="macro")
    ("area under the ROC curve", [0, 1, 2, 2, 0, 1], SCORES, "auroc", 0.7916666666666666),
    # torchmetrics' multiclass_calibration_error(n_bins=15, norm="l1")
    ("calibration", [0, 1, 2, 2, 0, 1], SCORES, "calibration_error", 0.41),
    ("scores that are all equal", [5, 5], np.zeros((2, 6)), ("top5_accuracy", "accuracy"), [0, 0]),
    ("the fifth of six classes", [4, 5], [np.arange(6)[::-1]] * 2, "top5_accuracy", 1 / 2),
    ("NaN predictions", [0, 1], np.full((2, 3), NAN), "accuracy", "not finite"),
    ("infinite predictions", [0, 1], np.full((2, 3), INF), "accuracy", "not finite"),
]


def multi_label(rows: list[list[int]], logits: Any, names: Any) -> Any:
    logits = np.asarray(logits, np.float32)
    streams = {
        "image": data.ImageTransform("image", (8, 8)),
        "labels": data.MultiLabelTransform("classes", ("a", "b")),
    }
    examples = dataset(streams, *({"image": GREY, "classes": row} for row in rows))
    evaluation = evals.MultiLabel(data=examples, head="x", streams=("image",), batch_size=len(logits))
    return measure(evaluation, lambda batch: logits, names)


# --- Retrieval


def retrieve(texts: list[str], images: Any, embedded: Any, names: Any, length: int = 24) -> Any:
    """Image `n` of grey level images[n] has the embedding of row n of embedded["image"], and so on."""
    streams = {"image": data.ImageTransform("image", (8, 8)), "text": text_stream(length)}
    records = [
        {"image": np.full((8, 8, 3), grey, np.uint8), "text": text}
        for grey, text in zip(images, texts, strict=True)
    ]
    evaluation = evals.Retrieval(
        data=dataset(streams, *records), heads=("image", "text"), batch_size=len(texts)
    )
    return measure(
        evaluation, lambda batch: {k: np.asarray(v, np.float32) for k, v in embedded.items()}, names
    )


THREE = ["red foxes", "cats", "i like"]
TURNED = {"image": np.eye(3), "text": np.eye(3)[[1, 0, 2]]}  # two texts are exchanged
RETRIEVALS = [
    ("all inputs at one point", THREE, range(3), dict.fromkeys(("image", "text"), np.ones((3, 2))),
     ("image->text/R@1", "image->text/median_rank", "image->text/R@1/chance"), [0, 3, 1 / 3]),
    ("two captions of an image", THREE, [7, 7, 9], TURNED | {"image": np.eye(3)[[0, 0, 2]]},
     ("image->text/R@1", "text->image/num_candidates", "image->text/mAP@10"), [1, 2, (2 * 5 / 6 + 1) / 3]),
    ("exchanged pairs", THREE, range(3), TURNED, ("image->text/R@1", "image->text/R@5"), [1 / 3, 1]),
    # numpy.median([1, 2]); open_clip's get_clip_metrics rounds it down to 1
    ("a median between two ranks", THREE[:2], range(2), {"image": np.eye(2), "text": [[1, 0], [0.8, 0.6]]},
     "text->image/median_rank", 1.5),
    # sklearn.metrics.ndcg_score(numpy.eye(3), scores, k=10)
    ("nDCG", THREE, range(3), {"image": np.eye(3), "text": [[0.6, 0.8, 0], [1, 0, 0], [0, 0.1, 0.99]]},
     "image->text/nDCG@10", 0.7103099178571526),
    ("texts with equal tokens", ["red \u2603", "red \u2602", "cats"], range(3), TURNED,
     "image->text/num_candidates", 3),
    ("one text in capitals and not", ["red foxes", "Red  Foxes", "cats"], range(3), TURNED,
     "image->text/num_candidates", 2),
    ("NaN embeddings", THREE, range(3), dict.fromkeys(("image", "text"), np.full((3, 2), NAN)),
     "image->text/R@1", "not finite"),
]  # fmt: skip


def no_pairs():
    streams = {"image": data.ImageTransform("image", (8, 8)), "text": text_stream()}
    evaluation = evals.Retrieval(data=dataset(streams), heads=("image", "text"))
    return measure(evaluation, lambda batch: {}, "image->text/R@1")


ONE_CANDIDATE = "retrieval: no example has two of the streams .* any ranking of one candidate is right"
partial = functools.partial
CASES: tuple[Case, ...] = (
    *(right(f"text: {name}", partial(transcribe, pairs, **fields), expected)
      for name, pairs, fields, expected in TEXTS),
    *(right(f"tags: {name}", partial(tag, rows, names, 4 if name == "words without room" else 24), expected)
      for name, rows, names, expected in TAGS),
    right("tags: classes that are not only of entities", other_classes, [1, -1]),
    *(right(f"boxes: {name}", partial(detect, images, found, names), expected)
      for name, images, found, names, expected in BOXES),
    right("boxes: parts of a crowd", partial(
        detect, [[A, B]], [[([0.65, 0.65, 0.05, 0.05], 0.9), ([0.75, 0.7, 0.05, 0.05], 0.8), (A, 0.7)]],
        "coco/AP", [[0, 1]]), 1),
    *(right(f"classes: {name}", partial(classify, labels, logits, names), expected)
      for name, labels, logits, names, expected in CLASSES),
    right("several labels: a class that all have", partial(
        multi_label, [[0], [0, 1], [0]], [[1, 0], [2, 3], [3, -1]],
        ("average_precision/a", "mean_average_precision/chance", "auroc")), [1, 2 / 3, 1]),
    right("several labels: a class that nobody has", partial(
        multi_label, [[0], []], [[2, 0], [1, 0]], ("mean_average_precision", "average_precision/b")),
        [1, -1]),
    *(right(f"retrieval: {name}", partial(retrieve, texts, images, embedded, names), expected)
      for name, texts, images, embedded, names, expected in RETRIEVALS),
    refused("text: only punctuation", partial(transcribe, [("!", "!")]), "found only punctuation"),
    refused("boxes: only images without objects", partial(detect, [[], []], [[(A, 0.5)], []], "mAP50"),
            "expected objects in the data, found only images without any"),
    refused("boxes: only images without annotations", partial(detect, [None], [[(A, 0.5)]], "mAP50"),
            "no example of the data has both 'image' and 'boxes'"),
    refused("boxes: too few flags of crowds", partial(detect, [[A, B]], [[(A, 0.5)]], "mAP50", [[1]]),
            "expected 2 flags in 'crowd' of the record '0', one for each box, found 1"),
    refused("classes: no labels", partial(classify, [0, 1], np.eye(2), "accuracy", has_label=False),
            "no example of the data has all of"),
    refused("classes: no inputs", partial(classify, [0, 1], np.eye(2), "accuracy", has_image=False),
            "no example of the data has all of"),
    refused("classes: a label beyond the head", partial(classify, [0, 7], np.eye(2), "accuracy"),
            "found the class 7, and the head 'x' has 2 classes"),
    refused("classes: no examples", partial(classify, [], np.eye(2), "accuracy"), "expected examples"),
    refused("several labels: no positive one", partial(multi_label, [[], []], np.eye(2), "f1"),
            "no example of the data has a class"),
    refused("retrieval: one example", partial(
        retrieve, THREE[:1], [0], dict.fromkeys(("image", "text"), np.eye(1)), "image->text/R@1"),
        ONE_CANDIDATE),
    refused("retrieval: no examples", no_pairs, "expected examples"),
)  # fmt: skip
