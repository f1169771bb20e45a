"""Captions, transcripts and tags against hand-computed cases and plain loops, with scripted models."""

import functools

import numpy as np
import pytest
from fakes import RecordSource, TwoTokensPerWord, dataset

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import Captions, Tags, Transcripts
from mmjax.evals.tags import entity_metrics, extract_entities
from mmjax.evals.text_errors import TextErrors, decode_like, edit_distance, error_rate, normalise
from mmjax.evals.transcripts import decode_best_path
from mmjax.heads import MaskedLogits

NAMES = ("red fox", "blue fox", "red cat", "grey cat", "red fox")


@pytest.mark.parametrize(
    "predicted, target, distance",
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2), ("aab", "aab", 0),
     ("ab", "ba", 2)],
)  # fmt: skip
def test_edit_distance(predicted, target, distance):
    assert edit_distance(predicted, target) == distance


def test_edit_distance_equals_the_recursion():
    @functools.cache
    def slow(predicted: str, target: str) -> int:
        if not predicted or not target:
            return len(predicted) + len(target)
        return min(
            slow(predicted[1:], target) + 1,
            slow(predicted, target[1:]) + 1,
            slow(predicted[1:], target[1:]) + (predicted[0] != target[0]),
        )

    rng = np.random.default_rng(0)
    for _ in range(100):
        predicted, target = ("".join(rng.choice(list("abc"), rng.integers(0, 7))) for _ in range(2))
        assert edit_distance(predicted, target) == slow(predicted, target)


def test_text_metrics_count_words_and_tokens_of_all_examples_together():
    tokenizer = TwoTokensPerWord(("red", "fox", "cat"))
    predicted = [tokenizer.encode(text)[0] for text in ("red fox", "cat", "red", "")]
    references = ["red fox", "red cat", "fox", "red red red"]
    metrics = TextErrors(references, tokenizer).of_ids(predicted)
    assert metrics["exact"] == 1 / 4
    assert metrics["word_error_rate"] == (0 + 1 + 1 + 3) / (2 + 2 + 1 + 3)
    assert metrics["character_error_rate"] == (0 + 4 + 3 + 11) / (7 + 7 + 3 + 11)
    assert metrics["token_error_rate"] == (0 + 2 + 2 + 6) / 16
    assert TextErrors(references, tokenizer).of_texts(["red fox", "cat", "red", ""]) == metrics
    assert error_rate([[1, 1, 1]], [[2]]) == 3
    assert error_rate(["abc", "ab"], ["", "ab"]) == 3 / 2, "an empty target adds insertions"
    with pytest.raises(InputError, match="found only empty ones"):
        error_rate(["abc"], [""])


def test_unknown_words_are_errors_although_the_ids_are_equal():
    tokenizer = TwoTokensPerWord(("red", "fox"))
    metrics = TextErrors(["red zebra"], tokenizer).of_ids([tokenizer.encode("red zebra")[0]])
    assert metrics["exact"] == 0 and metrics["word_error_rate"] == 1 / 2
    assert metrics["token_error_rate"] == 1 / 3


def test_texts_are_compared_without_case_and_punctuation_but_by_choice():
    tokenizer = TwoTokensPerWord(("red", "fox", ",", "cat"))
    predicted = tokenizer.encode("red, fox")[0]
    assert tokenizer.decode(predicted) == "red , fox"
    assert TextErrors(["Red, fox!"], tokenizer).of_ids([predicted])["word_error_rate"] == 0
    errors = TextErrors(["red, fox"], tokenizer, ignore_punctuation=False)
    assert errors.of_ids([predicted])["word_error_rate"] == 0, "the comma is spaced as in the reference"
    errors = TextErrors(["Red, fox"], tokenizer, ignore_case=False)
    assert errors.of_ids([predicted])["word_error_rate"] == 1 / 2
    assert errors.of_texts(["Red fox"])["word_error_rate"] == 0
    with pytest.raises(InputError, match="found only punctuation"):
        TextErrors(["!", "?!"], tokenizer)
    assert normalise("Cafe\u0301  [UNK]") == "caf\xe9 \N{REPLACEMENT CHARACTER}"


def test_words_are_spaced_as_in_the_reference():
    texts = ["i don't like u.s. red-haired foxes", "it's 3.5, he said"]
    spec = data.WordPiece(data.Arrays({"text": texts}), ("text",), vocab_size=56)
    vocabulary = spec.open()
    for text in texts:
        ids = vocabulary.encode(text)[0]
        assert vocabulary.decode(ids) != text and decode_like(ids, text, vocabulary) == text
    assert TextErrors(texts, vocabulary).of_ids([vocabulary.encode(x)[0] for x in texts])["exact"] == 1


def test_words_beyond_the_length_are_errors():
    """Of the six words, the stream has room for three."""
    examples = dataset(("red fox blue cat grey wolf",))
    evaluation = Captions(data=examples, head="caption", batch_size=2)
    metrics = evaluation(NextTokenPredictor(evaluation)).metrics
    assert metrics["nothing/next_token"] == 1
    assert metrics["nothing/word_error_rate"] == 3 / 6 and metrics["nothing/exact"] == 0


def test_best_path_drops_repetitions_blanks_and_padding():
    tokens = np.array([[0, 7, 7, 0, 7, 8, 8, 9], [5, 5, 5, 0, 0, 0, 6, 6]])
    mask = np.array([[True] * 7 + [False], [False] * 8])
    assert decode_best_path(tokens, mask, blank_id=0) == [[7, 7, 8], []]


def predict_first_word(batch, view, heads, seed=0):
    """Frame logits of the text's first word: one token per frame, repeated or with blanks between."""
    tokens = np.asarray(batch["text"].tokens)
    logits = np.zeros((len(tokens), 6, 64), np.float32)
    for row, (first, second) in enumerate(tokens[:, 1:3]):
        for frame, token in enumerate((0, first, first, 0, second, 0)):
            logits[row, frame, token] = 1
    return {"frames": MaskedLogits(logits, np.asarray(batch["audio"].mask)[:, :6])}, {}


def test_transcripts_of_frames():
    evaluation = Transcripts(data=dataset(NAMES, missing=((1, "audio"),)), head="frames", batch_size=4)
    metrics = evaluation(predict_first_word).metrics
    assert metrics.pop("character_error_rate") == pytest.approx(16 / (7 + 7 + 8 + 7))
    assert metrics == {"exact": 0, "word_error_rate": 1 / 2, "token_error_rate": 1 / 2, "num_examples": 4}


def test_baselines_of_transcripts_are_fitted_to_the_training_data():
    examples = dataset(NAMES)
    train = dataset(("grey fox", "grey cat", "grey cat"))
    train.streams["text"] = examples.streams["text"]
    evaluation = Transcripts(data=examples, head="frames", train=train, batch_size=4)
    metrics = evaluation(predict_first_word).metrics
    # Always "grey cat": "red fox", "blue fox" differ in both words, "red cat" in one, "grey cat" in none.
    assert metrics["most_common/word_error_rate"] == (2 + 2 + 1 + 0 + 2) / 10
    assert metrics["most_common/exact"] == 1 / 5
    same = Transcripts(data=examples, head="frames", train=examples, batch_size=4)(predict_first_word).metrics
    assert same["nearest/audio/exact"] == 1, "each recording is its own nearest neighbour"
    assert 0 < metrics["nearest/audio/word_error_rate"] < 1


class NextTokenPredictor:
    """Predicts the next true token of rows with audio, and [SEP] otherwise. `calls` are its input texts."""

    def __init__(self, evaluation):
        self.tokens = np.concatenate([batch["text"].tokens for batch in evaluation.batches()])
        self.calls = []

    def __call__(self, batch, view, heads, seed=0):
        text = batch["text"]
        has_audio = batch["audio"].mask.any(1)
        next_tokens = np.pad(self.tokens, ((0, 0), (0, 1)))[:, 1:]
        predicted = np.where(has_audio[:, None] & text.mask, next_tokens, 3)
        self.calls.append(text)
        return {"caption": np.eye(64, dtype=np.float32)[predicted]}, {}


def test_captions_are_decoded_token_by_token_given_each_subset():
    names = ("red fox", "blue fox", "grey cat")
    evaluation = Captions(
        data=dataset(names, missing=((1, "image"),)), head="caption", context=("audio", "image"),
        subsets=True, batch_size=4,
    )  # fmt: skip
    model = NextTokenPredictor(evaluation)
    metrics = evaluation(model).metrics
    assert metrics["num_examples"] == 2
    for given in ("audio", "audio+image"):
        assert metrics[f"{given}/exact"] == metrics[f"{given}/next_token"] == 1
        assert metrics[f"{given}/word_error_rate"] == metrics[f"{given}/token_error_rate"] == 0
    for given in ("nothing", "image"):  # the first prediction is [SEP]
        assert metrics[f"{given}/exact"] == 0 and metrics[f"{given}/word_error_rate"] == 1
        assert metrics[f"{given}/next_token"] == 1 / 5  # of four tokens and [SEP], only [SEP]
    # Decoding never reads the target: the first call after teacher forcing has only [CLS].
    text = model.calls[1]
    assert (text.mask.sum(1) == [1, 0, 1, 0]).all() and (text.tokens[:, 1:] == 0).all()
    # Decoding stops once all rows have [SEP]: teacher forcing and five steps, or one step.
    length = evaluation.data.streams["text"].length
    assert len(model.calls) == 2 * (1 + 5) + 2 * (1 + 1) and length > 6


def test_data_without_an_example_or_a_stream_are_refused():
    missing = tuple((n, "audio") for n in range(5))
    with pytest.raises(InputError, match=r"no example of the data has \['text', 'audio'\]"):
        evaluation = Captions(data=dataset(NAMES, missing=missing), head="caption", context=("audio",))
        evaluation(predict_first_word)
    with pytest.raises(InputError, match="no example of the data has 'audio' and 'text'"):
        Transcripts(data=dataset(NAMES, missing=missing), head="frames")(predict_first_word)
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
def test_entities_of_tags_as_conll_counts(tags, expected):
    assert extract_entities(tags.split(), strict=False) == expected


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("B-a I-a O B-b", [("a", 0, 2), ("b", 3, 4)]),
        ("O I-a I-a I-b", []),
        ("B-a I-b I-b O I-b", [("a", 0, 1)]),
        ("B-a I-a I-b I-a", [("a", 0, 2)]),
    ],
)
def test_entities_of_tags_begin_with_b(tags, expected):
    assert extract_entities(tags.split()) == expected


def test_entities_need_the_right_words_and_kind():
    targets = ["B-a I-a O B-b".split(), "O B-a O O".split()]
    predicted = ["B-a O O B-b".split(), "O B-c O B-a".split()]  # too short, right; wrong kind, spurious
    metrics = entity_metrics(predicted, targets)
    assert (metrics["entity_precision"], metrics["entity_recall"]) == (1 / 4, 1 / 3)
    assert metrics["entity_f1"] == pytest.approx(2 / 7)
    assert (metrics["entity_f1/a"], metrics["entity_f1/b"]) == (0, 1)
    assert metrics["entity_f1/c"] == 0, "a kind that only the predictions have"
    assert metrics["entity_macro_f1"] == 1 / 3
    assert (metrics["num_entities"], metrics["num_entities/a"], metrics["num_entities/c"]) == (3, 2, 0)
    assert entity_metrics([["O"]], [["O"]]) == {}, "without any entity nothing is defined"


CLASSES = ("O", "B-a", "I-a")


def tagged_dataset(rows: tuple[tuple[str, str], ...], length=10, classes=CLASSES) -> data.Dataset:
    tokenizer = TwoTokensPerWord(("red", "blue", "fox", "cat"))
    words = data.TextTransform("words", tokenizer, length=length, pretokenized=True, optional=True)
    records = [{"__key__": str(n), "words": text, "tags": tags} for n, (text, tags) in enumerate(rows)]
    return data.Dataset(
        RecordSource(tuple(records)),
        {"text": words, "tags": data.TagTransform("tags", text=words, classes=classes)},
    )


def predict_b_a(batch, view, heads, seed=0):
    logits = np.zeros((*batch["text"].tokens.shape, 3), np.float32)
    logits[..., 1] = 1
    return {"kinds": logits}, {}


def test_words_beyond_the_length_and_unknown_words_are_counted():
    """There is room for two words of four."""
    rows = (("red cat fox red", "O B-a I-a B-a"),)
    metrics = Tags(data=tagged_dataset(rows, length=6), head="kinds", batch_size=1)(predict_b_a).metrics
    assert metrics["num_words"] == 4 and metrics["num_untagged_words"] == 2
    assert metrics["accuracy"] == 1 / 4 and metrics["entity_recall"] == 0
    # The two unknown words are two words for the lookup.
    train = tagged_dataset((("zebra lion lion red", "B-a O O O"),))
    test = tagged_dataset((("zebra lion red", "B-a O O"),))
    assert Tags(data=test, head="kinds", train=train)(predict_b_a).metrics["lookup/accuracy"] == 1


def test_entities_depend_on_the_classes_and_not_on_the_true_tags():
    """The truth holds only O, whether the classes are tags of entities or not."""
    metrics = Tags(data=tagged_dataset((("red cat", "O O"),)), head="kinds")(predict_b_a).metrics
    assert metrics["entity_f1"] == metrics["num_entities"] == 0
    other = tagged_dataset((("red cat", "O O"),), classes=("O", "NOUN", "VERB"))
    assert not any("entity" in name for name in Tags(data=other, head="kinds")(predict_b_a).metrics)


def test_tags_and_their_baselines():
    train = tagged_dataset((("red fox", "O B-a"), ("blue fox", "O B-a"), ("fox red", "O O")))
    test = tagged_dataset((("red cat", "O B-a"), ("fox fox", "B-a I-a")))

    metrics = Tags(data=test, head="kinds", train=train, batch_size=3)(predict_b_a).metrics
    assert metrics["num_words"] == 4 and metrics["accuracy"] == 2 / 4
    # Predicted are four entities of one word each. The true ones are "cat" and "fox fox".
    assert metrics["entity_precision"] == 1 / 4 and metrics["entity_recall"] == 1 / 2
    # The lookup predicts O for red, O for the unknown cat, and B-a for fox, which it has two times in three.
    assert metrics["lookup/accuracy"] == 2 / 4 and metrics["lookup/entity_recall"] == 0
    assert metrics["majority/accuracy"] == 1 / 4
