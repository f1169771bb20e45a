"""Accuracy on masked words, of a model that needs audio and images to predict them."""

import dataclasses

import numpy as np
import pytest
from fakes import TwoTokensPerWord, dataset

from mmjax.errors import InputError
from mmjax.evals import MaskedWords

NAMES = ("red fox", "blue fox", "red cat", "grey cat", "red fox")


@pytest.fixture
def tokens() -> np.ndarray:
    """The unmasked tokens of `dataset(NAMES)` in one batch of eight."""
    return next(iter(MaskedWords(data=dataset(NAMES), head="words", batch_size=8).batches()))["text"].tokens


@pytest.fixture
def predictor(tokens):
    """Predicts a masked word's first token given audio, its second given an image, and otherwise [PAD]."""

    def predict(batch, view, heads, seed=0):
        logits = np.zeros((*batch["text"].tokens.shape, 64), np.float32)
        for row, column in np.argwhere(batch["text"].tokens == 4):
            is_first = tokens[row, column] % 2 == 1
            is_given = batch["audio"].mask[row].any() if is_first else batch["image"].mask[row]
            logits[row, column, tokens[row, column] if is_given else 0] = 1
        return {"words": logits}, {}

    return predict


def test_each_subset_of_the_context_and_each_slot(predictor):
    evaluation = MaskedWords(
        data=dataset(NAMES), context=("audio", "image"), slots=("color", "animal"), all_masked=True,
        batch_size=8,
    )  # fmt: skip
    metrics = evaluation(predictor).metrics
    for prefix in ("", "all_masked/"):
        expected = (("nothing", 0, 0), ("audio", 0.5, 0), ("image", 0.5, 0), ("audio+image", 1, 1))
        for given, token, word in expected:
            assert metrics[f"{prefix}{given}/token"] == token
            for slot in ("", "/color", "/animal"):
                assert metrics[f"{prefix}{given}/word{slot}"] == word
    assert metrics["unigram/word/color"] == pytest.approx(3 / 5)
    assert metrics["unigram/word/animal"] == pytest.approx(3 / 5)
    assert metrics["unigram/word"] == pytest.approx(6 / 10)


def test_only_examples_with_every_context_stream_are_counted(tokens):
    batches = []

    def predict_all(batch, view, heads, seed=0):
        batches.append(batch)
        return {"words": np.eye(64, dtype=np.float32)[tokens]}, {}

    missing = ((0, "audio"), (1, "image"), (3, "text"))
    evaluation = MaskedWords(data=dataset(NAMES, missing=missing), context=("audio", "image"), batch_size=8)
    metrics = evaluation(predict_all).metrics
    assert all(value == 1 for name, value in metrics.items() if not name.startswith("unigram"))
    for batch in batches:  # only rows 2 and 4 have all streams
        assert set(np.argwhere(batch["text"].tokens == 4)[:, 0].tolist()) == {2, 4}


def test_random_words_are_masked_whole_and_at_least_one_per_text():
    evaluation = MaskedWords(data=dataset(NAMES), rate=0.01, batch_size=8)
    text = next(iter(evaluation.batches()))["text"]
    ((_, slot, masked),) = evaluation.word_masks(text, seed=3)
    assert slot is None
    for row in range(5):
        words = text.words[row][masked[row]]
        assert len(set(words.tolist())) == 1 and len(words) == 2 and words[0] >= 0
    assert not masked[5:].any()
    ((_, _, repeated),) = evaluation.word_masks(text, seed=3)
    assert (repeated == masked).all()


def test_the_unigram_is_fitted_to_the_training_data(predictor):
    examples = dataset(NAMES)
    train = dataset(("grey fox", "grey cat", "grey cat"))
    train.streams["text"] = examples.streams["text"]
    evaluation = MaskedWords(data=examples, train=train, slots=("color", "animal"), batch_size=8)
    metrics = evaluation(predictor).metrics
    assert metrics["unigram/word/color"] == pytest.approx(1 / 5)
    assert metrics["unigram/word/animal"] == pytest.approx(2 / 5)


def test_data_without_a_word_to_mask_are_refused(predictor):
    missing = tuple((n, "audio") for n in range(5))
    with pytest.raises(InputError, match=r"no example of the data has \['text', 'audio'\]"):
        MaskedWords(data=dataset(NAMES, missing=missing), context=("audio",), batch_size=8)(predictor)


def test_unknown_words_count_as_wrong():
    def predict_truth(batch, view, heads, seed=0):
        return {"words": np.eye(64, dtype=np.float32)[truth]}, {}

    examples = dataset(("red zebra",))
    streams = examples.streams | {
        "text": dataclasses.replace(examples.streams["text"], tokenizer=TwoTokensPerWord(("red", "fox")))
    }
    evaluation = MaskedWords(
        data=dataclasses.replace(examples, streams=streams), slots=("colour", "animal"), batch_size=1
    )
    truth = np.asarray(next(iter(evaluation.batches()))["text"].tokens)
    metrics = evaluation(predict_truth).metrics
    assert metrics["nothing/word/colour"] == 1 and metrics["nothing/word/animal"] == 0
