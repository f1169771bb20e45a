"""One record -> a class for each word of its text."""

import dataclasses

import numpy as np

from mmjax.batch import Tags
from mmjax.data.records import BadExample, Record, lookup_words
from mmjax.data.text import TextTransform
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class TagTransform:
    """The words' tags, each at its word's first token (Devlin et al. 2019, section 5.3).

    Args:
        field: path to a list of tags, or to tags separated by spaces: as many as `text` has words.
        text: the transform of the text, with ``pretokenized=True``: it says which token belongs to which
            word. Words that its length cuts off, or of which its tokenizer makes no token, have no tag.
        classes: the tags, in the order of their numbers.
        optional: a record without the field is an example without this stream.
    """

    field: str
    text: TextTransform
    classes: tuple[str, ...]
    optional: bool = False

    def __post_init__(self):
        if not self.text.pretokenized:
            raise InputError(
                "TagTransform expects a text of given words, found pretokenized=False: the tokenizer's words "
                "are not the ones that have tags"
            )
        if not isinstance(self.text.field, str):
            raise InputError(f"TagTransform expects a text of one field, found {self.text.field!r}")

    def decode(self, record: Record) -> np.ndarray:
        """The class at each position, and -1 where there is none: int32 "L". Raises BadExample."""
        key = record["__key__"]
        tags, words = lookup_words(record, self.field), lookup_words(record, str(self.text.field))
        if len(tags) != len(words):
            raise BadExample(
                key,
                f"expected as many tags in {self.field!r} as there are words, {len(words)}, "
                f"found {len(tags)}",
            )
        unknown = sorted(set(tags) - set(self.classes))
        if unknown:
            raise BadExample(key, f"expected tags of {list(self.classes)} in {self.field!r}, found {unknown}")
        numbers = np.asarray([self.classes.index(tag) for tag in tags], np.int32)
        word = self.text.decode(record)[0].words
        first = (word >= 0) & (word != np.concatenate(([-1], word[:-1])))
        return np.where(first, numbers[np.maximum(word, 0)], -1).astype(np.int32)

    def augment(self, decoded: np.ndarray, rng: np.random.Generator | None) -> Tags:
        """The same tags: nothing here is random."""
        return Tags(np.maximum(decoded, 0), decoded >= 0)

    def empty(self) -> Tags:
        """No tag."""
        return Tags(np.zeros(self.text.length, np.int32), np.zeros(self.text.length, bool))
