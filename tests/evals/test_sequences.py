"""What is said against what is true: by hand, by loops, and with models that a test makes."""

import functools

import numpy as np
import pytest
from fakes import RecordSource, TwoTokensPerWord, dataset

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import Captions, Tags, Transcripts
from mmjax.evals.text_errors import edit_distance, error_rate
from mmjax.evals.transcripts import decode_best_path
from mmjax.heads import MaskedLogits

NAMES = ("red fox", "blue fox", "red cat", "grey cat", "red fox")


@pytest.mark.parametrize(
    "said, true, distance",
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("flaw", "lawn", 2),
        ("aab", "aab", 0),
        ("ab", "ba", 2),
    ],
)
def test_edit_distance(said, true, distance):
    assert edit_distance(said, true) == distance


def test_edit_distance_is_what_the_recursion_says():
    @functools.cache
    def slow(said: str, true: str) -> int:
        if not said or not true:
            return len(said) + len(true)
        return min(
            slow(said[1:], true) + 1,
            slow(said, true[1:]) + 1,
            slow(said[1:], true[1:]) + (said[0] != true[0]),
        )

    rng = np.random.default_rng(0)
    for _ in range(100):
        said, true = ("".join(rng.choice(list("abc"), rng.integers(0, 7))) for _ in range(2))
        assert edit_distance(said, true) == slow(said, true)


def test_rates_count_words_and_tokens_of_all_examples_together():
    tokenizer = TwoTokensPerWord(("red", "fox", "cat"))
    encode = lambda text: tokenizer.encode(text)[0]  # noqa: E731
    said = [encode("red fox"), encode("cat"), encode("red"), []]
    true = [encode("red fox"), encode("red cat"), encode("fox"), encode("red red red")]
    found = rates(said, true, tokenizer)
    assert found["exact"] == 1 / 4
    assert found["word_error_rate"] == (0 + 1 + 1 + 3) / (2 + 2 + 1 + 3)
    assert found["token_error_rate"] == (0 + 2 + 2 + 6) / 16
    assert error_rate([[1, 1, 1]], [[2]]) == 3


def test_best_path_drops_repetitions_then_blanks_and_padding():
    tokens = np.array([[0, 7, 7, 0, 7, 8, 8, 9], [5, 5, 5, 0, 0, 0, 6, 6]])
    mask = np.array([[True] * 7 + [False], [False] * 8])
    assert decode_best_path(tokens, mask, blank_id=0) == [[7, 7, 8], []]


def speaker(batch, view, heads, seed=0):
    """Says the first word of the text, a token a frame with blanks between, whatever comes after."""
    tokens = np.asarray(batch["text"].tokens)
    logits = np.zeros((len(tokens), 6, 64), np.float32)
    for row, (first, second) in enumerate(tokens[:, 1:3]):
        for frame, token in enumerate((0, first, first, 0, second, 0)):
            logits[row, frame, token] = 1
    return {"frames": MaskedLogits(logits, np.asarray(batch["audio"].mask)[:, :6])}, {}


def test_transcripts_of_frames():
    evaluation = Transcripts(data=dataset(NAMES, missing=((1, "audio"),)), head="frames", batch_size=4)
    metrics = evaluation(speaker).metrics
    assert metrics == {"exact": 0, "word_error_rate": 1 / 2, "token_error_rate": 1 / 2, "num_examples": 4}


def test_transcripts_baselines_learn_from_train():
    examples = dataset(NAMES)
    train = dataset(("grey fox", "grey cat", "grey cat"))
    train.streams["text"] = examples.streams["text"]
    metrics = Transcripts(data=examples, head="frames", train=train, batch_size=4)(speaker).metrics
    # Always "grey cat": "red fox", "blue fox" differ in both words, "red cat" in one, "grey cat" in none.
    assert metrics["most_common/word_error_rate"] == (2 + 2 + 1 + 0 + 2) / 10
    assert metrics["most_common/exact"] == 1 / 5
    same = Transcripts(data=examples, head="frames", train=examples, batch_size=4)(speaker).metrics
    assert same["nearest/audio/exact"] == 1, "a recording is nearest to itself"
    assert 0 < metrics["nearest/audio/word_error_rate"] < 1


class Caster:
    """Says the row's next token where it hears the row, and [SEP] where it does not."""

    def __init__(self, evaluation):
        self.tokens = np.concatenate([batch["text"].tokens for batch in evaluation.batches()])
        self.calls = []

    def __call__(self, batch, view, heads, seed=0):
        text = batch["text"]
        heard = batch["audio"].mask.any(1)
        following = np.pad(self.tokens, ((0, 0), (0, 1)))[:, 1:]
        said = np.where(heard[:, None] & text.mask, following, 3)
        self.calls.append(text)
        return {"caption": np.eye(64, dtype=np.float32)[said]}, {}


def test_captions_are_said_token_by_token_from_what_is_there():
    names = ("red fox", "blue fox", "grey cat")
    evaluation = Captions(
        data=dataset(names, missing=((1, "image"),)), head="caption", context=("audio", "image"),
        subsets=True, batch_size=4,
    )  # fmt: skip
    model = Caster(evaluation)
    metrics = evaluation(model).metrics
    assert metrics["num_examples"] == 2
    for given in ("audio", "audio+image"):
        assert metrics[f"{given}/exact"] == metrics[f"{given}/next_token"] == 1
        assert metrics[f"{given}/word_error_rate"] == metrics[f"{given}/token_error_rate"] == 0
    for given in ("nothing", "image"):  # [SEP] at once
        assert metrics[f"{given}/exact"] == 0 and metrics[f"{given}/word_error_rate"] == 1
        assert metrics[f"{given}/next_token"] == 1 / 5  # of four tokens and [SEP], only [SEP]
    # Nothing of the answer is shown while it is said: the first call after teacher forcing has [CLS] alone.
    text = model.calls[1]
    assert (text.mask.sum(1) == [1, 0, 1, 0]).all() and (text.tokens[:, 1:] == 0).all()
    # [SEP] for all rows ends the decoding: teacher forcing and one step.
    whole = evaluation.data.streams["text"].length
    assert len(model.calls) == 2 * (1 + 5) + 2 * (1 + 1) and whole > 6


def test_captions_of_data_without_an_example_are_refused():
    missing = tuple((n, "audio") for n in range(5))
    with pytest.raises(InputError, match=r"no example of the data has \['text', 'audio'\]"):
        Captions(data=dataset(NAMES, missing=missing), head="caption", context=("audio",))(speaker)
    with pytest.raises(InputError, match="no example of the data has 'audio' and 'text'"):
        Transcripts(data=dataset(NAMES, missing=missing), head="frames")(speaker)
    with pytest.raises(InputError, match=r"Captions needs the streams \['text', 'smell'\]"):
        Captions(data=dataset(NAMES), head="caption", context=("smell",))


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("B-a I-a O B-b", [("a", 0, 2), ("b", 3, 4)]),
        ("B-a B-a I-a", [("a", 0, 1), ("a", 1, 3)]),
        ("O I-a I-a I-b", [("a", 1, 3), ("b", 3, 4)]),
        ("O O", []),
        ("B-a I-b I-b O I-b", [("a", 0, 1), ("b", 1, 3), ("b", 4, 5)]),
    ],
)
def test_entities(tags, expected):
    assert entities(tags.split()) == expected


def test_entity_scores_are_strict():
    true = ["B-a I-a O B-b".split(), "O B-a O O".split()]
    said = ["B-a O O B-b".split(), "O B-b O B-a".split()]  # too short, right; wrong kind, invented
    found = scores(said, true)
    assert found["accuracy"] == 5 / 8
    assert (found["entity_precision"], found["entity_recall"]) == (1 / 4, 1 / 3)
    assert found["entity_f1"] == pytest.approx(2 / 7)
    assert scores([["NOUN"]], [["VERB"]]) == {"accuracy": 0}
    assert scores([["O"]], [["O"]])["entity_f1"] == 0, "nothing to find is no success"


CLASSES = ("O", "B-a", "I-a")


def tagged(rows: tuple[tuple[str, str], ...]) -> data.Dataset:
    words = data.TextTransform(
        "words", TwoTokensPerWord(("red", "blue", "fox", "cat")), length=10, pretokenized=True, optional=True
    )
    records = [{"__key__": str(n), "words": text, "tags": tags} for n, (text, tags) in enumerate(rows)]
    return data.Dataset(
        RecordSource(tuple(records)),
        {"text": words, "tags": data.TagTransform("tags", text=words, classes=CLASSES)},
    )


def test_tags_and_their_lookup():
    train = tagged((("red fox", "O B-a"), ("blue fox", "O B-a"), ("fox red", "O O")))
    test = tagged((("red cat", "O B-a"), ("fox fox", "B-a I-a")))

    def all_begin(batch, view, heads, seed=0):
        logits = np.zeros((*batch["text"].tokens.shape, 3), np.float32)
        logits[..., 1] = 1
        return {"kinds": logits}, {}

    metrics = Tags(data=test, head="kinds", train=train, batch_size=3)(all_begin).metrics
    assert metrics["num_words"] == 4 and metrics["accuracy"] == 2 / 4
    # Said: four entities of a word each; true: "cat", and "fox fox" as one.
    assert metrics["entity_precision"] == 1 / 4 and metrics["entity_recall"] == 1 / 2
    # red: O; cat: unknown, so O; fox: B-a twice of three times.
    assert metrics["lookup/accuracy"] == 2 / 4 and metrics["lookup/entity_recall"] == 0
    assert metrics["majority/accuracy"] == 1 / 4
