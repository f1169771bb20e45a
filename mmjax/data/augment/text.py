"""Words that are masked, unknown or gone."""

import abc
import dataclasses
from typing import Literal

import numpy as np

from mmjax.batch import Text
from mmjax.data.augment.base import Augmentation, share
from mmjax.data.vocabulary import Vocabulary
from mmjax.errors import InputError

Becomes = Literal["mask", "unknown", "nothing"]


class TextAugmentation(Augmentation):
    """Acts on token ids. Special tokens stay, and so does at least one word."""

    @abc.abstractmethod
    def __call__(self, text: Text, rng: np.random.Generator, vocabulary: Vocabulary) -> Text:
        """The text anew, of the same shapes."""


@dataclasses.dataclass(frozen=True)
class WordDropout(TextAugmentation):
    """Each word by itself, with all its tokens (Iyyer et al. 2015; as [UNK]: Bowman et al. 2016).

    becomes: [MASK], [UNK], or nothing, whereupon the rest moves up. What became [MASK] or [UNK] is a word no
    more, so that an objective that hides words does not ask for it.
    """

    rate: float = 0.1
    replace_with: Becomes = "mask"

    def __post_init__(self):
        _check("WordDropout", self.rate, self.replace_with)

    def changes(self):
        return frozenset({"words"})

    def without(self, forbidden):
        return None if "words" in forbidden else self

    def __call__(self, text, rng, vocabulary):
        words = np.unique(text.words[text.words >= 0])
        draws = rng.random(words.size)
        return dropped(text, words[_but_one(draws < self.rate, rng)], self.replace_with, vocabulary)


@dataclasses.dataclass(frozen=True)
class SpanDropout(TextAugmentation):
    """Runs of words, of geometric length, until a share ``rate`` of the words is in them (Joshi et al. 2020,
    SpanBERT, section 3.1, where they are [MASK] and to be told). ``becomes`` as WordDropout's."""

    rate: float = 0.15
    mean_length: float = 3.0
    max_length: int = 10
    replace_with: Becomes = "mask"

    def __post_init__(self):
        _check("SpanDropout", self.rate, self.replace_with)
        if self.mean_length < 1 or self.max_length < 1:
            raise InputError(
                "SpanDropout expects mean_length and max_length of at least 1, found "
                f"{self.mean_length} and {self.max_length}"
            )

    def changes(self):
        return frozenset({"words"})

    def without(self, forbidden):
        return None if "words" in forbidden else self

    def __call__(self, text, rng, vocabulary):
        words = np.unique(text.words[text.words >= 0])
        # The share of a short text is rarely whole: rounded up or down by chance, it is right on average.
        wanted = int(self.rate * words.size + rng.random())
        gone = np.zeros(words.size, bool)
        while gone.sum() < wanted:
            length = min(int(rng.geometric(1 / self.mean_length)), self.max_length, wanted - int(gone.sum()))
            start = int(rng.integers(words.size - length + 1))
            gone[start : start + length] = True
        return dropped(text, words[_but_one(gone, rng)], self.replace_with, vocabulary)


def dropped(text: Text, words: np.ndarray, replace_with: Becomes, vocabulary: Vocabulary) -> Text:
    """The text with the words of these numbers masked, unknown or gone."""
    gone = np.isin(text.words, words) & (text.words >= 0)
    if replace_with != "nothing":
        token = vocabulary.mask_id if replace_with == "mask" else vocabulary.unk_id
        return text.replace(
            tokens=np.where(gone, token, text.tokens).astype(np.int32),
            words=np.where(gone, -1, text.words).astype(np.int32),
        )
    kept = np.flatnonzero(text.mask & ~gone)
    tokens, types = np.full_like(text.tokens, vocabulary.pad_id), np.zeros_like(text.token_types)
    places = np.full_like(text.words, -1)
    tokens[: kept.size], types[: kept.size] = text.tokens[kept], text.token_types[kept]
    places[: kept.size] = text.words[kept]
    return Text(tokens, np.arange(tokens.size) < kept.size, types, places)


def _but_one(gone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same, but that one of them, drawn, stays where all would go."""
    if gone.size and gone.all():
        gone = gone.copy()
        gone[int(rng.integers(gone.size))] = False
    return gone


def _check(owner: str, rate: float, replace_with: str) -> None:
    share(owner, rate=rate)
    if replace_with not in ("mask", "unknown", "nothing"):
        raise InputError(f"{owner} expects becomes='mask', 'unknown' or 'nothing', found {replace_with!r}")
