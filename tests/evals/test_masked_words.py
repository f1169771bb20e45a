"""Masked-word accuracy against a plain loop, with a model that knows only what it is shown."""

import numpy as np
import pytest
from fakes import dataset

from mmjax.errors import InputError
from mmjax.evals import MaskedWords

NAMES = ("red fox", "blue fox", "red cat", "grey cat", "red fox")


def reader(batch, view, heads, seed=0):
    """Reads the hidden word's first token from sound, its second from pictures, and [PAD] from neither.

    What it reads it knows from the sound's and picture's row number, so it must be told them: see `shown`.
    """
    tokens = reader.tokens[reader.start : reader.start + len(batch["text"].mask)]
    logits = np.zeros((*batch["text"].tokens.shape, 64), np.float32)
    for row, column in np.argwhere(batch["text"].tokens == 4):
        first = tokens[row, column] % 2 == 1
        seen = batch["audio"].mask[row].any() if first else batch["image"].mask[row]
        logits[row, column, tokens[row, column] if seen else 0] = 1
    return {"words": logits}, {}


@pytest.fixture(autouse=True)
def tokens():
    whole = next(iter(MaskedWords(data=dataset(NAMES), head="words", batch_size=8).batches()))
    reader.tokens, reader.start = whole["text"].tokens, 0


def test_each_subset_of_the_context_and_each_slot():
    evaluation = MaskedWords(
        data=dataset(NAMES),
        context=("audio", "image"),
        slots=("color", "animal"),
        all_masked=True,
        batch_size=8,
    )
    metrics = evaluation(reader).metrics
    for kind in ("", "all_masked/"):
        for given, token, word in (
            ("nothing", 0, 0),
            ("audio", 0.5, 0),
            ("image", 0.5, 0),
            ("audio+image", 1, 1),
        ):
            assert metrics[f"{kind}{given}/token"] == token
            for part in ("", "/color", "/animal"):
                assert metrics[f"{kind}{given}/word{part}"] == word
    assert metrics["unigram/word/color"] == pytest.approx(3 / 5)
    assert metrics["unigram/word/animal"] == pytest.approx(3 / 5)
    assert metrics["unigram/word"] == pytest.approx(6 / 10)


def test_only_examples_with_every_context_count():
    calls = []

    def all_right(batch, view, heads, seed=0):
        calls.append(batch)
        return {"words": np.eye(64, dtype=np.float32)[reader.tokens]}, {}

    missing = ((0, "audio"), (1, "image"), (3, "text"))
    evaluation = MaskedWords(data=dataset(NAMES, missing=missing), context=("audio", "image"), batch_size=8)
    metrics = evaluation(all_right).metrics
    assert all(value == 1 for name, value in metrics.items() if not name.startswith("unigram"))
    for batch in calls:  # rows 2 and 4 have everything
        assert set(np.argwhere(batch["text"].tokens == 4)[:, 0].tolist()) == {2, 4}


def test_random_words_are_hidden_whole_and_at_least_one_a_text():
    evaluation = MaskedWords(data=dataset(NAMES), rate=0.01, batch_size=8)
    text = next(iter(evaluation.batches()))["text"]
    ((_, slot, hidden),) = evaluation.masks(text, seed=3)
    assert slot is None
    for row in range(5):
        words = text.words[row][hidden[row]]
        assert len(set(words.tolist())) == 1 and len(words) == 2 and words[0] >= 0
    assert not hidden[5:].any()
    ((_, _, again),) = evaluation.masks(text, seed=3)
    assert (again == hidden).all()


def test_unigram_is_learnt_from_train():
    examples = dataset(NAMES)
    train = dataset(("grey fox", "grey cat", "grey cat"))
    train.streams["text"] = examples.streams["text"]
    metrics = MaskedWords(data=examples, train=train, slots=("color", "animal"), batch_size=8)(reader).metrics
    assert metrics["unigram/word/color"] == pytest.approx(1 / 5)
    assert metrics["unigram/word/animal"] == pytest.approx(2 / 5)


def test_nothing_to_hide_is_refused():
    missing = tuple((n, "audio") for n in range(5))
    with pytest.raises(InputError, match=r"no example of the data has \['text', 'audio'\]"):
        MaskedWords(data=dataset(NAMES, missing=missing), context=("audio",), batch_size=8)(reader)
