"""Word dropout: words replaced by [MASK] or [UNK], or removed."""

import abc
import dataclasses
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from mmjax.batch import Text
from mmjax.data.augment.base import Augmentation
from mmjax.data.vocabulary import Vocabulary
from mmjax.ranges import Count, Fraction

Replacement = Literal["mask", "unknown", "nothing"]


class TextAugmentation(Augmentation):
    """Augments token ids. Special tokens and at least one word stay unchanged."""

    @abc.abstractmethod
    def __call__(self, text: Text, rng: np.random.Generator, vocabulary: Vocabulary) -> Text:
        """Returns the augmented text, of the same shapes."""


@dataclasses.dataclass(frozen=True)
class WordDropout(TextAugmentation):
    """Drops each word independently, with all its tokens (Iyyer et al. 2015; as [UNK]: Bowman et al. 2016).

    rate: the probability to drop a word.
    replace_with: [MASK], [UNK], or nothing, which moves later tokens forward. `Text.words` is -1 at the
      replaced tokens, so that masked language modelling does not mask them again.
    """

    rate: Fraction = 0.1
    replace_with: Replacement = "mask"

    def changes(self):
        return frozenset({"words"})

    def __call__(self, text, rng, vocabulary):
        words = np.unique(text.words[text.words >= 0])
        draws = rng.random(words.size)
        return drop_words(text, words[_keep_one(draws < self.rate, rng)], self.replace_with, vocabulary)


@dataclasses.dataclass(frozen=True)
class SpanDropout(TextAugmentation):
    """Drops runs of words of geometric length (Joshi et al. 2020, SpanBERT, section 3.1).

    rate: the fraction of words to drop. mean_length, max_length: of a run, in words.
    replace_with: see `WordDropout`.
    """

    rate: Fraction = 0.15
    mean_length: Annotated[float, Interval(ge=1, le=1e6)] = 3.0
    max_length: Count = 10
    replace_with: Replacement = "mask"

    def changes(self):
        return frozenset({"words"})

    def __call__(self, text, rng, vocabulary):
        words = np.unique(text.words[text.words >= 0])
        # Round at random, so that the expected number of dropped words is exact.
        num_dropped = int(self.rate * words.size + rng.random())
        dropped = np.zeros(words.size, bool)
        while (remaining := num_dropped - int(dropped.sum())) > 0:
            length = min(int(rng.geometric(1 / self.mean_length)), self.max_length, remaining)
            start = int(rng.integers(words.size - length + 1))
            dropped[start : start + length] = True
        return drop_words(text, words[_keep_one(dropped, rng)], self.replace_with, vocabulary)


def drop_words(text: Text, words: np.ndarray, replace_with: Replacement, vocabulary: Vocabulary) -> Text:
    """Replaces or removes the words with the numbers `words` "N" in a text "L"."""
    dropped = np.isin(text.words, words) & (text.words >= 0)
    if replace_with != "nothing":
        token = vocabulary.mask_id if replace_with == "mask" else vocabulary.unk_id
        return text.replace(
            tokens=np.where(dropped, token, text.tokens).astype(np.int32),
            words=np.where(dropped, -1, text.words).astype(np.int32),
        )
    keep = np.flatnonzero(text.mask & ~dropped)
    tokens, types = np.full_like(text.tokens, vocabulary.pad_id), np.zeros_like(text.token_types)
    word_numbers = np.full_like(text.words, -1)
    tokens[: keep.size], types[: keep.size] = text.tokens[keep], text.token_types[keep]
    word_numbers[: keep.size] = text.words[keep]
    return Text(tokens, np.arange(tokens.size) < keep.size, types, word_numbers)


def _keep_one(dropped: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """If all would be dropped, keeps a random one: bool "N" -> bool "N"."""
    if dropped.size and dropped.all():
        dropped = dropped.copy()
        dropped[int(rng.integers(dropped.size))] = False
    return dropped
