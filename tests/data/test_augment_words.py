"""Words left out of texts: hidden whole, never all of them, and a function of the generator alone."""

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
    """A transform of words, and what it makes of a sentence."""
    sentence = "one two three four five six seven eight"
    source = data.Arrays({"text": [sentence]})
    transform = data.TextTransform("text", data.WordPiece(source, ("text",), vocab_size=45), length=20)

    def augmented(*augmentations, seed=0, words=sentence):
        spec = dataclasses.replace(transform, augmentations=augmentations)
        return spec.augment(spec.decode({"__key__": "k", "text": words}), rng(seed))

    return transform, augmented


@pytest.mark.parametrize("kind", [augment.WordDropout, augment.SpanDropout])
@pytest.mark.parametrize(("becomes", "token"), [("mask", data.MASK_ID), ("unknown", data.UNK_ID)])
def test_dropped_words_are_hidden_whole_and_not_asked_for(texts, kind, replace_with, token):
    _, augmented = texts
    plain = augmented()
    shares = []
    for seed in range(300):
        text = augmented(kind(rate=0.3, replace_with=replace_with), seed=seed)
        gone = text.tokens != plain.tokens
        np.testing.assert_array_equal(text.tokens[gone], token)
        np.testing.assert_array_equal(text.words[gone], -1)
        np.testing.assert_array_equal(text.words[~gone], plain.words[~gone])
        np.testing.assert_array_equal(text.mask, plain.mask)
        assert not gone[plain.words < 0].any(), "special tokens stay"
        for word in set(plain.words[plain.words >= 0]):
            assert len(set(gone[plain.words == word])) == 1
        shares.append(len(set(plain.words[gone])) / len(set(plain.words[plain.words >= 0])))
    assert np.mean(shares) == pytest.approx(0.3, abs=4 * 0.3 / np.sqrt(300))


@pytest.mark.parametrize("kind", [augment.WordDropout, augment.SpanDropout])
def test_words_may_be_gone_and_the_rest_moves_up(texts, kind):
    _, augmented = texts
    plain = augmented()
    lengths = set()
    for seed in range(50):
        text = augmented(kind(rate=0.4, replace_with="nothing"), seed=seed)
        size = int(text.mask.sum())
        lengths.add(size)
        assert text.mask[:size].all() and not text.tokens[size:].any() and (text.words[size:] == -1).all()
        assert text.tokens[0] == data.CLS_ID and text.tokens[size - 1] == data.SEP_ID
        kept = np.isin(plain.words, text.words[text.words >= 0]) | (plain.words < 0)
        np.testing.assert_array_equal(text.tokens[:size], plain.tokens[kept & plain.mask])
        np.testing.assert_array_equal(text.words[:size], plain.words[kept & plain.mask])
    assert len(lengths) > 3


@pytest.mark.parametrize("kind", [augment.WordDropout, augment.SpanDropout])
@pytest.mark.parametrize("becomes", ["mask", "nothing"])
def test_one_word_always_stays(texts, kind, replace_with):
    _, augmented = texts
    for words in ("three", "one two", "one two three four"):
        for seed in range(5):
            text = augmented(kind(rate=1.0, replace_with=replace_with), seed=seed, words=words)
            assert len(set(text.words[text.words >= 0])) == 1


def test_spans_are_runs(texts):
    """At a rate of a half of eight words and long spans, what is hidden is mostly one run."""
    _, augmented = texts
    runs = []
    for seed in range(100):
        text = augmented(augment.SpanDropout(rate=0.5, mean_length=8.0), seed=seed)
        there = np.isin(np.arange(8), text.words)
        runs.append(int((np.diff(np.concatenate([[1], there.astype(int)])) == -1).sum()))
    alone = [
        int((np.diff(np.concatenate([[1], np.isin(np.arange(8), t.words).astype(int)])) == -1).sum())
        for t in (augmented(augment.WordDropout(rate=0.5), seed=seed) for seed in range(100))
    ]
    assert np.mean(runs) < 1.5 < np.mean(alone)


def test_a_text_without_words_stays(texts):
    transform, _ = texts
    empty: Text = transform.empty()
    vocabulary = transform.tokenizer.open()
    for kind in (augment.WordDropout(rate=1.0), augment.SpanDropout(rate=1.0)):
        made = kind(empty, rng(), vocabulary)
        assert not made.mask.any() and (made.words == -1).all()
