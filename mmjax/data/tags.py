"""One record -> a class for each word of its text."""

import dataclasses

import numpy as np

from mmjax.batch import Tags
from mmjax.data.labels import class_indices
from mmjax.data.records import BadExample, Record, lookup_words
from mmjax.data.text import TextTransform
from mmjax.data.transform import Transform
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class TagTransform(Transform):
    """Places each word's tag at the word's first token (Devlin et al. 2019, section 5.3).

    Words that the text's length cuts off, or for which its tokenizer gives no token, have no tag.

    field: path to a list of tags, or to tags separated by spaces; one for each word of `text`.
    text: the transform of the text, with `pretokenized=True`.
    classes: the tags; a tag's index is its class.
    optional: the record may lack the field; the example then lacks this stream.
    """

    field: str
    text: TextTransform
    classes: tuple[str, ...]
    optional: bool = False

    def __post_init__(self):
        if not self.text.pretokenized:
            raise InputError(
                "TagTransform expects a text with pretokenized=True, found False: the tags belong to the "
                "record's words, which the tokenizer would split differently"
            )
        if not isinstance(self.text.field, str):
            raise InputError(f"TagTransform expects a text with one field, found {self.text.field!r}")

    def decode(self, record: Record) -> np.ndarray:
        """Returns the class at each word's first token and -1 elsewhere, int32 "L"."""
        key = record["__key__"]
        tags, words = lookup_words(record, self.field), lookup_words(record, str(self.text.field))
        if len(tags) != len(words):
            raise BadExample(
                key, f"expected {len(words)} tags in {self.field!r}, one for each word, found {len(tags)}"
            )
        indices = class_indices(key, self.field, tags, self.classes)
        words_of_tokens = self.text.decode(record)[0].words
        previous = np.concatenate(([-1], words_of_tokens[:-1]))
        first = (words_of_tokens >= 0) & (words_of_tokens != previous)
        return np.where(first, indices[np.maximum(words_of_tokens, 0)], -1).astype(np.int32)

    def augment(self, decoded: np.ndarray, rng: np.random.Generator | None) -> Tags:
        return Tags(np.maximum(decoded, 0), decoded >= 0)

    def empty(self) -> Tags:
        return Tags(np.zeros(self.text.length, np.int32), np.zeros(self.text.length, bool))
