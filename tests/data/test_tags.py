"""TagTransform: tags at the first token of each word."""

import numpy as np
import pytest

from mmjax import data
from mmjax.errors import InputError

WORDS = ["Don't", "call", "O'Hara", "☃", "now"]
TAGS = ["O", "O", "B-person", "O", "O"]
CLASSES = ("O", "B-person", "I-person")
SOURCE = data.Arrays({"tokens": [WORDS, ["a", "b", "c"]], "tags": [TAGS, ["O", "O", "O"]]})


class LetterTokenizer(data.TokenizerSpec):
    """One token per letter; none for a snowman. Both spec and vocabulary."""

    vocab_size, size, pad_id, cls_id, sep_id, mask_id = 64, 64, 0, 2, 3, 4
    special_ids = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}

    def open(self):
        return self

    def encode(self, text):
        letters = [letter for letter in text if letter != "☃"]
        return [5 + ord(letter) % 50 for letter in letters], [0] * len(letters)


def transforms(length: int = 24, **options) -> tuple[data.TextTransform, data.TagTransform]:
    text = data.TextTransform("tokens", LetterTokenizer(), length=length, pretokenized=True)
    return text, data.TagTransform("tags", text=text, classes=CLASSES, **options)


def record(**fields) -> dict:
    return {"__key__": "k", "tokens": WORDS, "tags": TAGS} | fields


def transformed(transform, record: dict):
    return transform.augment(transform.decode(record), None)


def test_each_tag_is_at_its_words_first_token():
    text, tags = (transformed(transform, record()) for transform in transforms())
    # Tokens: [CLS], 5 of Don't, 4 of call, 6 of O'Hara, none of the snowman, 3 of now, [SEP].
    starts = {1: "O", 6: "O", 10: "B-person", 16: "O"}
    np.testing.assert_array_equal(np.flatnonzero(tags.mask), list(starts))
    assert [CLASSES[tag] for tag in tags.values[tags.mask]] == list(starts.values())
    assert [text.words[position] for position in starts] == [0, 1, 2, 4], "indices of the record's words"
    assert text.mask.sum() == 20


def test_truncated_words_have_no_tag():
    text, tags = (transformed(transform, record()) for transform in transforms(length=8))
    np.testing.assert_array_equal(np.flatnonzero(tags.mask), [1, 6])
    assert text.tokens[7] == 3


def test_words_and_tags_may_be_separated_by_spaces():
    spaced = record(tokens=" ".join(WORDS), tags=" ".join(TAGS))
    for transform in transforms():
        for name in ("values", "mask", "tokens"):
            if hasattr(transformed(transform, spaced), name):
                np.testing.assert_array_equal(
                    getattr(transformed(transform, spaced), name),
                    getattr(transformed(transform, record()), name),
                )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tags": TAGS[:-1]}, "expected 5 tags in 'tags', one for each word, found 4"),
        ({"tags": ["O", "O", "B-place", "O", "O"]}, r"found \['B-place'\]"),
        ({"tags": [0, 1, 0, 0, 0]}, "expected a list of words in 'tags'"),
        ({"tags": []}, "expected a list of words in 'tags'"),
        ({"tokens": ["☃"] * 5}, "for which the tokenizer gives no token"),
    ],
)
def test_bad_records_are_bad_examples(change, message):
    with pytest.raises(data.BadExample, match=message):
        transformed(transforms()[1], record(**change))


def test_a_record_without_tags_lacks_the_stream():
    untagged = {"__key__": "k", "tokens": WORDS}
    with pytest.raises(data.MissingField):
        transformed(transforms()[1], untagged)
    _, tags = transforms(optional=True)
    dataset = data.Dataset(
        data.Arrays({"tokens": [WORDS]}), dict(zip(("text", "tags"), (transforms()[0], tags), strict=True))
    )
    (batch,) = data.epoch(dataset, 2)
    assert not batch["tags"].mask.any() and batch["text"].mask[0].any()
    assert batch["text"].prefix is None and batch["tags"].values.shape == (2, 24)


def test_invalid_settings_are_refused():
    plain = data.TextTransform("tokens", LetterTokenizer(), length=8)
    with pytest.raises(
        InputError, match="a text with pretokenized=True, found False: the tags belong to the record's"
    ):
        data.TagTransform("tags", text=plain, classes=CLASSES)
    with pytest.raises(InputError, match=r"expects a text with one field, found \('a', 'b'\)"):
        both = data.TextTransform(("a", "b"), LetterTokenizer(), length=8, pretokenized=True)
        data.TagTransform("tags", text=both, classes=CLASSES)
    with pytest.raises(InputError, match="found both"):
        data.TextTransform("tokens", LetterTokenizer(), length=8, pretokenized=True, classes=("a",))
