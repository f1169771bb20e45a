"""One record -> token ids of static length."""

import dataclasses
from typing import Literal

import numpy as np

from mmjax.batch import Text
from mmjax.data import augment
from mmjax.data.augment.base import check_kind, with_generators, without
from mmjax.data.records import BadExample, Record, lookup, lookup_text, lookup_words, read_each_path
from mmjax.data.vocabulary import TokenizerSpec
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class TextTransform:
    """``[CLS] tokens [SEP]``, cut and padded to ``length``.

    Args:
        field: a path, or several that say the same in other words. Those that a record lacks are left out.
        tokenizer: :class:`WordPiece`, :class:`Pretrained` or alike.
        length: number of positions L.
        choose: of several paths, train on the ``"first"`` or a ``"random"`` one. Evaluation takes the first.
        join: what stands between the texts of a list.
        classes: names of the numbers that the field holds, where it holds a class and not a text.
        pretokenized: the field holds words, as a list or divided by spaces. Each is tokenized by itself, and
            ``Text.words`` numbers these words rather than the tokenizer's.
        optional: a record with none of the paths is an example without this stream.
        augmentations: what training changes, in this order.
    """

    field: str | tuple[str, ...]
    tokenizer: TokenizerSpec
    length: int
    choose: Literal["first", "random"] = "first"
    join: str = ", "
    classes: tuple[str, ...] | None = None
    optional: bool = False
    pretokenized: bool = False
    augmentations: tuple[augment.TextAugmentation, ...] = ()

    def __post_init__(self):
        check_kind(self.augmentations, augment.TextAugmentation, "TextTransform")
        if self.length < 3:
            raise InputError(
                f"expected a length of at least 3, for [CLS], a token and [SEP], found {self.length}"
            )
        if self.choose not in ("first", "random"):
            raise InputError(f"expected choose='first' or 'random', found {self.choose!r}")
        if self.pretokenized and self.classes is not None:
            raise InputError("expected words (pretokenized=True) or numbers of classes, found both")

    def decode(self, record: Record) -> list[Text]:
        """Token ids for each path that the record has; one for ``choose="first"``."""
        texts = read_each_path(record, self.field, self._decode)
        return [next(texts)] if self.choose == "first" else list(texts)

    def _decode(self, record: Record, path: str) -> Text:
        if self.pretokenized:
            return self._encode_words(lookup_words(record, path), record["__key__"])
        return self.encode(self._text(record, path), record["__key__"])

    def _text(self, record: Record, path: str) -> str:
        if self.classes is None:
            return lookup_text(record, path, self.join)
        key, value = record["__key__"], lookup(record, path)
        if not (np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.integer)):
            raise BadExample(key, f"expected the number of a class in {path!r}, found {value!r}")
        if not 0 <= int(value) < len(self.classes):
            raise BadExample(
                key, f"expected a class from 0 to {len(self.classes) - 1} in {path!r}, found {value}"
            )
        return self.classes[int(value)]

    def encode(self, text: str, key: str = "text") -> Text:
        """The stream of any text, such as a prompt. Raises BadExample when it holds no token."""
        return self._to_tokens(*self.tokenizer.open().encode(text), text, key)

    def _encode_words(self, words: list[str], key: str) -> Text:
        vocabulary = self.tokenizer.open()
        ids = [vocabulary.encode(word)[0] for word in words]
        numbers = [number for number, tokens in enumerate(ids) for _ in tokens]
        return self._to_tokens([token for tokens in ids for token in tokens], numbers, " ".join(words), key)

    def _to_tokens(self, ids: list[int], words: list[int], text: str, key: str) -> Text:
        vocabulary = self.tokenizer.open()
        if not ids:
            raise BadExample(
                key, f"expected text, found {text[:40]!r}, of which the tokenizer makes no token"
            )
        size = min(len(ids), self.length - 2)
        tokens = np.full(self.length, vocabulary.pad_id, np.int32)
        tokens[0], tokens[1 : size + 1], tokens[size + 1] = vocabulary.cls_id, ids[:size], vocabulary.sep_id
        word = np.full(self.length, -1, np.int32)
        word[1 : size + 1] = words[:size]
        return Text(tokens, np.arange(self.length) < size + 2, np.zeros(self.length, np.int32), word)

    def augment(self, decoded: list[Text], rng: np.random.Generator | None) -> Text:
        """One of the texts, augmented."""
        if rng is None:
            return decoded[0]
        text = decoded[0] if len(decoded) == 1 else decoded[int(rng.integers(len(decoded)))]
        if self.augmentations:
            vocabulary = self.tokenizer.open()
            for augmentation, own in with_generators(self.augmentations, rng):
                text = augmentation(text, own, vocabulary)
        return text

    def without(self, forbidden: frozenset[str]) -> "TextTransform":
        """The same without these changes."""
        return dataclasses.replace(self, augmentations=without(self.augmentations, forbidden))

    def possible_text(self, record: Record) -> str:
        """Every text that the record has for this stream, whichever is chosen. Raises BadExample."""
        return "\n".join(read_each_path(record, self.field, self._text))

    def empty(self) -> Text:
        """No text."""
        zeros = np.zeros(self.length, np.int32)
        return Text(zeros, np.zeros(self.length, bool), zeros, zeros - 1)
