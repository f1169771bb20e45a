"""Word and span dropout."""

import dataclasses

import numpy as np
import pytest

from mmjax import data
from mmjax.batch import Text
from mmjax.data import augment


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def texts(make):
    """A TextTransform, and a function that applies it with augmentations to a sentence."""
    sentence = "one two three four five six seven eight"
    source = data.Arrays({"text": [sentence]})
    transform = data.TextTransform("text", data.WordPiece(source, ("text",), vocab_size=45), length=20)

    def augmented(*augmentations, seed=0, words=sentence):
        augmenting = dataclasses.replace(transform, augmentations=augmentations)
        return augmenting.augment(augmenting.decode({"__key__": "k", "text": words}), rng(seed))

    return transform, augmented


@pytest.mark.parametrize("kind", [augment.WordDropout, augment.SpanDropout])
@pytest.mark.parametrize(("replace_with", "token"), [("mask", data.MASK_ID), ("unknown", data.UNK_ID)])
def test_dropped_words_are_replaced_whole_and_not_masked_again(texts, kind, replace_with, token):
    _, augmented = texts
    plain = augmented()
    fractions = []
    for seed in range(300):
        text = augmented(kind(rate=0.3, replace_with=replace_with), seed=seed)
        dropped = text.tokens != plain.tokens
        np.testing.assert_array_equal(text.tokens[dropped], token)
        np.testing.assert_array_equal(text.words[dropped], -1)
        np.testing.assert_array_equal(text.words[~dropped], plain.words[~dropped])
        np.testing.assert_array_equal(text.mask, plain.mask)
        assert not dropped[plain.words < 0].any(), "special tokens must stay"
        for word in set(plain.words[plain.words >= 0]):
            assert len(set(dropped[plain.words == word])) == 1
        fractions.append(len(set(plain.words[dropped])) / len(set(plain.words[plain.words >= 0])))
    assert np.mean(fractions) == pytest.approx(0.3, abs=4 * 0.3 / np.sqrt(300))


@pytest.mark.parametrize("kind", [augment.WordDropout, augment.SpanDropout])
def test_words_replaced_with_nothing_are_removed(texts, kind):
    _, augmented = texts
    plain = augmented()
    lengths = set()
    for seed in range(50):
        text = augmented(kind(rate=0.4, replace_with="nothing"), seed=seed)
        size = int(text.mask.sum())
        lengths.add(size)
        assert text.mask[:size].all() and not text.tokens[size:].any() and (text.words[size:] == -1).all()
        assert text.tokens[0] == data.CLS_ID and text.tokens[size - 1] == data.SEP_ID
        keep = np.isin(plain.words, text.words[text.words >= 0]) | (plain.words < 0)
        np.testing.assert_array_equal(text.tokens[:size], plain.tokens[keep & plain.mask])
        np.testing.assert_array_equal(text.words[:size], plain.words[keep & plain.mask])
    assert len(lengths) > 3


@pytest.mark.parametrize("kind", [augment.WordDropout, augment.SpanDropout])
@pytest.mark.parametrize("replace_with", ["mask", "nothing"])
def test_at_least_one_word_stays(texts, kind, replace_with):
    _, augmented = texts
    for words in ("three", "one two", "one two three four"):
        for seed in range(5):
            text = augmented(kind(rate=1.0, replace_with=replace_with), seed=seed, words=words)
            assert len(set(text.words[text.words >= 0])) == 1


def test_span_dropout_drops_runs_of_words(texts):
    """With long spans, the four dropped of eight words mostly form one run."""
    _, augmented = texts

    def mean_num_runs(augmentation):
        words = [augmented(augmentation, seed=seed).words for seed in range(100)]
        kept = [np.isin(np.arange(8), numbers).astype(int) for numbers in words]
        return np.mean([(np.diff(np.concatenate([[1], keep])) == -1).sum() for keep in kept])

    spans = mean_num_runs(augment.SpanDropout(rate=0.5, mean_length=8.0))
    assert spans < 1.5 < mean_num_runs(augment.WordDropout(rate=0.5))


def test_text_without_words_stays_unchanged(texts):
    transform, _ = texts
    empty: Text = transform.empty()
    vocabulary = transform.tokenizer.open()
    for kind in (augment.WordDropout(rate=1.0), augment.SpanDropout(rate=1.0)):
        augmented = kind(empty, rng(), vocabulary)
        assert not augmented.mask.any() and (augmented.words == -1).all()
