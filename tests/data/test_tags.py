"""Tags at the first token of each word."""

import numpy as np
import pytest

from mmjax import data
from mmjax.errors import InputError

WORDS = ["Don't", "call", "O'Hara", "☃", "now"]
TAGS = ["O", "O", "B-person", "O", "O"]
CLASSES = ("O", "B-person", "I-person")
SOURCE = data.Arrays({"tokens": [WORDS, ["a", "b", "c"]], "tags": [TAGS, ["O", "O", "O"]]})


class Cuts:
    """A tokenizer of letters; a snowman is nothing to it."""

    vocab_size, size, pad_id, cls_id, sep_id, mask_id = 64, 64, 0, 2, 3, 4

    def open(self):
        return self

    def encode(self, text):
        letters = [letter for letter in text if letter != "☃"]
        return [5 + ord(letter) % 50 for letter in letters], [0] * len(letters)


def transforms(length: int = 24, **more) -> tuple[data.TextTransform, data.TagTransform]:
    text = data.TextTransform("tokens", Cuts(), length=length, pretokenized=True)
    return text, data.TagTransform("tags", text=text, classes=CLASSES, **more)


def record(**more) -> dict:
    return {"__key__": "k", "tokens": WORDS, "tags": TAGS} | more


def one(transform, made: dict):
    return transform.augment(transform.decode(made), None)


def test_each_word_has_its_tag_at_its_first_token():
    text, tags = (one(transform, record()) for transform in transforms())
    # [CLS], then Don't 5, call 4, O'Hara 6, the snowman none, now 3 tokens, [SEP].
    starts = {1: "O", 6: "O", 10: "B-person", 16: "O"}
    np.testing.assert_array_equal(np.flatnonzero(tags.mask), list(starts))
    assert [CLASSES[tag] for tag in tags.values[tags.mask]] == list(starts.values())
    assert [text.words[place] for place in starts] == [0, 1, 2, 4], "words count as the record counts them"
    assert text.mask.sum() == 20


def test_words_that_are_cut_off_have_no_tag():
    text, tags = (one(transform, record()) for transform in transforms(length=8))
    np.testing.assert_array_equal(np.flatnonzero(tags.mask), [1, 6])
    assert text.tokens[7] == 3


def test_texts_divided_by_spaces_are_words_too():
    spaced = record(tokens=" ".join(WORDS), tags=" ".join(TAGS))
    for transform in transforms():
        for name in ("values", "mask", "tokens"):
            if hasattr(one(transform, spaced), name):
                np.testing.assert_array_equal(
                    getattr(one(transform, spaced), name), getattr(one(transform, record()), name)
                )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tags": TAGS[:-1]}, "as many tags in 'tags' as there are words, 5, found 4"),
        ({"tags": ["O", "O", "B-place", "O", "O"]}, r"found \['B-place'\]"),
        ({"tags": [0, 1, 0, 0, 0]}, "expected a list of words in 'tags'"),
        ({"tags": []}, "expected a list of words in 'tags'"),
        ({"tokens": ["☃"] * 5}, "of which the tokenizer makes no token"),
    ],
)
def test_bad_records_are_bad_examples(change, message):
    with pytest.raises(data.BadExample, match=message):
        one(transforms()[1], record(**change))


def test_a_record_without_tags_is_an_example_without_this_stream():
    made = {"__key__": "k", "tokens": WORDS}
    with pytest.raises(data.MissingField):
        one(transforms()[1], made)
    _, tags = transforms(optional=True)
    dataset = data.Dataset(
        data.Arrays({"tokens": [WORDS]}), dict(zip(("text", "tags"), (transforms()[0], tags), strict=True))
    )
    (batch,) = data.epoch(dataset, 2)
    assert not batch["tags"].mask.any() and batch["text"].mask[0].any()
    assert batch["text"].prefix is None and batch["tags"].values.shape == (2, 24)


def test_wrong_settings_are_refused():
    plain = data.TextTransform("tokens", Cuts(), length=8)
    with pytest.raises(InputError, match="found pretokenized=False: the tokenizer's words are not the ones"):
        data.TagTransform("tags", text=plain, classes=CLASSES)
    with pytest.raises(InputError, match=r"expects a text of one field, found \('a', 'b'\)"):
        both = data.TextTransform(("a", "b"), Cuts(), length=8, pretokenized=True)
        data.TagTransform("tags", text=both, classes=CLASSES)
    with pytest.raises(InputError, match="found both"):
        data.TextTransform("tokens", Cuts(), length=8, pretokenized=True, classes=("a",))
