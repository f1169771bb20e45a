"""One record -> token ids of static length."""

import dataclasses
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from mmjax.batch import Text
from mmjax.data import augment
from mmjax.data.augment.base import with_generators, without
from mmjax.data.records import BadExample, Record, lookup, lookup_text, lookup_words, read_each_path
from mmjax.data.transform import Transform, choose
from mmjax.data.vocabulary import TokenizerSpec
from mmjax.errors import InputError, excerpt

# A longer text is cut before it is tokenized, which bounds the time. A token stands for at most 200 letters,
# so that the cut text still fills all positions.
_CHARACTERS_PER_TOKEN = 256
_MAX_CHARACTERS = 2**20


@dataclasses.dataclass(frozen=True)
class TokenCounts:
    """The tokens of one text, counted.

    tokens: the number of tokens, without special ones; of a text that is cut, those before the cut.
    unknown: how many of them are [UNK].
    truncated: how many do not fit into the stream's positions.
    """

    tokens: int
    unknown: int
    truncated: int


@dataclasses.dataclass(frozen=True)
class TextTransform(Transform):
    """Tokenizes a text to `[CLS] tokens [SEP]`, truncated and padded to `length`.

    field: path to a text, or several paths to alternative texts, of which a record may lack some.
    tokenizer: a `WordPiece`, a `Pretrained`, or another TokenizerSpec.
    length: number of positions L.
    choose: of several paths, train on the "first" or on a "random" one. Evaluation takes the first.
    join: separator of the texts of a list.
    classes: for a field that holds a class index: the texts of the classes.
    pretokenized: the field holds words, as a list or separated by spaces. Each is tokenized separately,
        and `Text.words` holds indices of these words rather than of the tokenizer's.
    optional: the record may lack all paths; the example then lacks this stream.
    augmentations: augmentations of training, in order.
    """

    field: str | tuple[str, ...]
    tokenizer: TokenizerSpec
    length: Annotated[int, Interval(ge=3, le=2**20)]
    choose: Literal["first", "random"] = "first"
    join: str = ", "
    classes: tuple[str, ...] | None = None
    optional: bool = False
    pretokenized: bool = False
    augmentations: tuple[augment.TextAugmentation, ...] = ()

    def __post_init__(self):
        if self.choose not in ("first", "random"):
            raise InputError(f"expected choose='first' or 'random', found {self.choose!r}")
        if self.pretokenized and self.classes is not None:
            raise InputError("expected pretokenized=True or classes, found both")

    def decode(self, record: Record) -> list[Text]:
        """Returns a text for each path that the record has; with `choose="first"`, one."""
        texts = read_each_path(record, self.field, self._decode)
        return [next(texts)] if self.choose == "first" else list(texts)

    def locate(self, record: Record) -> None:
        self.reference_text(record)  # without opening the tokenizer

    def _decode(self, record: Record, path: str) -> Text:
        if self.pretokenized:
            return self._encode_words(lookup_words(record, path), record["__key__"])
        return self.encode(self._text(record, path), record["__key__"])

    def _text(self, record: Record, path: str) -> str:
        if self.classes is None:
            return lookup_text(record, path, self.join)
        key, value = record["__key__"], lookup(record, path)
        if not (np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.integer)):
            raise BadExample(key, f"expected a class number in {path!r}, found {excerpt(value)}")
        if not 0 <= int(value) < len(self.classes):
            raise BadExample(
                key, f"expected a class from 0 to {len(self.classes) - 1} in {path!r}, found {value}"
            )
        return self.classes[int(value)]

    def encode(self, text: str, key: str = "text") -> Text:
        """Tokenizes any text, such as a prompt. Raises BadExample if it has no token that is known."""
        return self._frame(*self._tokenize(text, key), text, key)

    def count(self, text: str, key: str = "text") -> TokenCounts:
        """How many tokens of a text are unknown, and how many are cut off."""
        ids, unknown = self._tokenize(text, key)[0], self.tokenizer.open().special_ids.get("unk")
        return TokenCounts(len(ids), ids.count(unknown), max(len(ids) - (self.length - 2), 0))

    def _tokenize(self, text: str, key: str) -> tuple[list[int], list[int]]:
        """(ids, word indices), of which the first `length` are those of the whole text."""
        vocabulary, size = self.tokenizer.open(), _CHARACTERS_PER_TOKEN * self.length
        while True:
            part = text[:size]
            try:
                part.encode("utf-8")
            except UnicodeEncodeError as error:  # tokenizers would raise a TypeError without a reason
                found = f"{part[error.start]!r} at {error.start}"
                raise BadExample(key, f"expected text that UTF-8 can encode, found {found}") from error
            try:
                ids, words = vocabulary.encode(part)
            except Exception as error:  # the tokenizers library raises no other type
                found = f"{excerpt(part)}: {error}"
                raise BadExample(key, f"expected text that the tokenizer can read, found {found}") from error
            if len(ids) >= self.length or size >= min(len(text), _MAX_CHARACTERS):
                return ids, words
            size *= 4  # a long run of spaces, or of characters that the tokenizer drops

    def _encode_words(self, words: list[str], key: str) -> Text:
        ids, indices = [], []
        for index, word in enumerate(words):
            tokens = self._tokenize(word, key)[0]
            ids += tokens
            indices += [index] * len(tokens)
            if len(ids) >= self.length:
                break
        return self._frame(ids, indices, " ".join(words[:8]), key)

    def _frame(self, ids: list[int], words: list[int], text: str, key: str) -> Text:
        """Adds [CLS] and [SEP], truncates and pads."""
        vocabulary = self.tokenizer.open()
        if not ids:
            raise BadExample(
                key, f"expected text, found {excerpt(text)}, for which the tokenizer gives no token"
            )
        if all(token == vocabulary.special_ids.get("unk") for token in ids):
            raise BadExample(
                key,
                f"expected text that the tokenizer knows, found {excerpt(text)}, in which no word is known",
            )
        size = min(len(ids), self.length - 2)
        tokens = np.full(self.length, vocabulary.pad_id, np.int32)
        tokens[0], tokens[1 : size + 1], tokens[size + 1] = vocabulary.cls_id, ids[:size], vocabulary.sep_id
        word_indices = np.full(self.length, -1, np.int32)
        word_indices[1 : size + 1] = words[:size]
        return Text(tokens, np.arange(self.length) < size + 2, np.zeros(self.length, np.int32), word_indices)

    def augment(self, decoded: list[Text], rng: np.random.Generator | None) -> Text:
        text = choose(decoded, rng)
        if rng is not None and self.augmentations:
            vocabulary = self.tokenizer.open()
            for augmentation, generator in with_generators(self.augmentations, rng):
                text = augmentation(text, generator, vocabulary)
        return text

    def without(self, forbidden: frozenset[str]) -> "TextTransform":
        return dataclasses.replace(self, augmentations=without(self.augmentations, forbidden))

    def possible_text(self, record: Record) -> str:
        """All texts of the record, one per line, whichever of them `choose` takes. Raises BadExample."""
        return "\n".join(read_each_path(record, self.field, self._text))

    def reference_text(self, record: Record) -> str:
        """The record's own text that evaluation takes, neither tokenized nor truncated. Raises BadExample."""
        read = _joined_words if self.pretokenized else self._text
        return next(read_each_path(record, self.field, read))

    def empty(self) -> Text:
        zeros = np.zeros(self.length, np.int32)
        return Text(zeros, np.zeros(self.length, bool), zeros, zeros - 1)


def _joined_words(record: Record, path: str) -> str:
    return " ".join(lookup_words(record, path))
