"""Masked words that the model predicts from the rest of the text and each subset of the context streams.

audio+image/word                  words with all tokens right, given audio and image; other context is missing
nothing/word                      the same given the text alone
audio/token                       tokens
audio/word/letter                 words of one slot
all_masked/audio/word[/letter]    all words are masked at once, so that no word helps to predict another
unigram/word[/letter], /token     always the most common training word (of the slot) or token

A word that the vocabulary lacks, [UNK], counts as wrong, whatever is predicted.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from mmjax import data
from mmjax.batch import Batch, Text
from mmjax.errors import InputError
from mmjax.evals import pictures
from mmjax.evals.base import DrawPicture, HeadEval, Predictor, Result, check_finite, has_streams
from mmjax.evals.baseline import most_common
from mmjax.evals.once import once
from mmjax.evals.subsets import keep_only, subset_name, subsets
from mmjax.ranges import Count, PositiveFraction
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedWords(HeadEval):
    """Accuracy of a TokenLogits head on masked words.

    It masks words and streams in the batch itself and uses the identity view, so that the model is compiled
    once. Only examples with the text and every context stream are counted, so that all subsets of the context
    are measured on the same examples.

    context: other streams that the head can read.
    slots: names of the words of a text whose sentences all have one form: word n is slot n, and each word is
      masked alone. None: a fraction `rate` of each text's words is masked, at least one.
    all_masked: measure also with all words masked.
    train: training data for the unigram; None: the evaluated data, which make the unigram look better.
    """

    stream: str = "text"
    head: str = "words"
    context: tuple[str, ...] = ()
    slots: tuple[str, ...] | None = None
    all_masked: bool = False
    rate: PositiveFraction = 0.15
    train: data.Dataset | None = None
    train_limit: Count | None = 20_000

    def __post_init__(self):
        self.check_streams(self.stream, *self.context)
        self.check_no_subsets_of("Name these streams in `context`")

    def __call__(self, predictor: Predictor) -> Result:
        vocabulary = self.data.streams[self.stream].tokenizer.open()
        mask_id, unk_id = vocabulary.mask_id, vocabulary.special_ids.get("unk", -1)
        train = self.train or self.data
        unigram = once(
            self, "unigram", lambda: Unigram.fit(self.batches_of(train, self.train_limit), self.stream)
        )
        num_right, num_masked = collections.Counter(), collections.Counter()
        for number, batch in enumerate(self.batches()):
            rows = has_streams(batch, self.stream, *self.context)
            text: Text = batch[self.stream]  # type: ignore[assignment]  # streams are named by the user
            tokens = np.asarray(text.tokens)
            for prefix, slot, masked in self.word_masks(text, seed=number):
                masked = masked & rows[:, None]
                if not masked.any():
                    continue
                masked_text = text.replace(tokens=np.where(masked, mask_id, tokens).astype(np.int32))
                hits = {}
                for subset in subsets(self.context):
                    inputs = keep_only(batch, self.context, subset) | {self.stream: masked_text}
                    outputs, _ = predictor(inputs, Identity(), (self.head,))
                    predicted = check_finite(self.head, outputs[self.head]).argmax(axis=-1)
                    hits[prefix + subset_name(subset)] = predicted == tokens
                if not prefix:
                    hits["unigram"] = unigram.hits(text, masked, slot)
                for name, is_right in hits.items():
                    num_right.update(self._count(name, text, masked, is_right & (tokens != unk_id)))
                    num_masked.update(self._count(name, text, masked, masked))
        if not num_masked:
            raise InputError(
                f"masked words: no example of the data has {[self.stream, *self.context]} and a word to mask"
            )
        names = [name for name in self._metric_names() if name in num_masked]
        metrics = {name: num_right[name] / num_masked[name] for name in names}
        return Result(metrics, self._pictures(metrics))

    def word_masks(self, text: Text, seed: int) -> Iterator[tuple[str, int | None, np.ndarray]]:
        """Yields (prefix of the metrics, slot or None, masked positions bool "B L") per way of masking."""
        words = np.where(np.asarray(text.mask), np.asarray(text.words), -1)
        if self.slots:
            for slot in range(len(self.slots)):
                yield "", slot, words == slot
        else:
            # Word n of a text is masked if sample n of its row is below the rate, or the smallest of the row.
            samples = np.random.default_rng(seed).uniform(size=words.shape)
            samples = np.where(words >= 0, np.take_along_axis(samples, np.maximum(words, 0), axis=1), 2)
            smallest = samples.min(axis=1, keepdims=True)
            yield "", None, (words >= 0) & ((samples < self.rate) | (samples == smallest))
        if self.all_masked:
            yield "all_masked/", None, words >= 0

    def _metric_names(self) -> list[str]:
        """All metrics in the order of the result."""
        given = [subset_name(subset) for subset in subsets(self.context)]
        prefixes = [*given, "unigram", *(f"all_masked/{name}" for name in given)]
        units = ["token", "word", *(f"word/{slot}" for slot in self.slots or ())]
        return [f"{prefix}/{unit}" for prefix in prefixes for unit in units]

    def _count(self, prefix: str, text: Text, masked: np.ndarray, hits: np.ndarray) -> dict[str, int]:
        """{metric: number of masked tokens or words that are right}. `masked` and `hits` are bool "B L"."""
        counts = collections.Counter({f"{prefix}/token": int((hits & masked).sum())})
        words = np.asarray(text.words)
        for number in np.unique(words[masked]):
            in_word = masked & (words == number)
            num_right = int((in_word.any(axis=1) & (hits | ~in_word).all(axis=1)).sum())
            counts[f"{prefix}/word"] += num_right
            if self.slots and number < len(self.slots):
                counts[f"{prefix}/word/{self.slots[number]}"] += num_right
        return counts

    def _pictures(self, metrics: dict[str, float]) -> dict[str, DrawPicture]:
        groups = self.slots or ("token", "word")
        path = "word/" if self.slots else ""
        names = [subset_name(subset) for subset in subsets(self.context)]
        drawn: dict[str, DrawPicture] = {}
        for prefix, title in (
            ("", "Masked words that are predicted right, given ..."),
            ("all_masked/", "The same with all words masked"),
        ):
            if any(f"{prefix}{name}/{path}{group}" not in metrics for name in names for group in groups):
                continue  # `all_masked` is False, or no text has one of the slots
            drawn[f"{prefix.strip('/') or 'masked'}_words"] = partial(
                pictures.bars,
                title=title,
                subtitle="fraction of right answers by " + ("slot" if self.slots else "unit"),
                groups=groups,
                heights={
                    name.replace("+", " + "): [metrics[f"{prefix}{name}/{path}{group}"] for group in groups]
                    for name in names
                },
                lines=[metrics[f"unigram/{path}{group}"] for group in groups],
                line_name="most common answer",
            )
        return drawn


@dataclasses.dataclass(frozen=True)
class Unigram:
    """The most common token, and the most common word (a tuple of tokens) of all and by its word number."""

    token: int
    word: tuple[int, ...]
    word_by_number: dict[int, tuple[int, ...]]

    @classmethod
    def fit(cls, batches: Iterable[Batch], stream: str) -> "Unigram":
        """From batches of training data."""
        tokens: collections.Counter = collections.Counter()
        words: collections.Counter = collections.Counter()
        by_number: dict[int, collections.Counter] = collections.defaultdict(collections.Counter)
        for batch in batches:
            for row in _words_by_row(batch[stream]):
                tokens.update(itertools.chain.from_iterable(row.values()))
                words.update(row.values())
                for number, word in row.items():
                    by_number[number][word] += 1
        if not tokens:
            raise InputError(f"unigram baseline: the data hold no text in {stream!r}: give another `train`")
        word_by_number = {number: most_common(counts) for number, counts in by_number.items()}
        return cls(most_common(tokens), most_common(words), word_by_number)

    def hits(self, text: Text, masked: np.ndarray, slot: int | None) -> np.ndarray:
        """Whether each token is right: bool "B L", of `masked` positions "B L".

        With a slot it predicts the most common word of the slot, otherwise the most common token everywhere.
        """
        tokens = np.asarray(text.tokens)
        if slot is None:
            return tokens == self.token
        predicted = self.word_by_number.get(slot, self.word)
        is_right = np.asarray([words.get(slot) == predicted for words in _words_by_row(text)])
        return masked & is_right[:, None]


def _words_by_row(text: Text) -> Iterator[dict[int, tuple[int, ...]]]:
    """Yields {word number: its tokens} of each row."""
    rows = zip(np.asarray(text.tokens), np.asarray(text.words), np.asarray(text.mask), strict=True)
    for tokens, words, mask in rows:
        by_number: dict[int, tuple[int, ...]] = {}
        for token, word in zip(tokens[mask].tolist(), words[mask].tolist(), strict=True):
            if word >= 0:
                by_number[word] = (*by_number.get(word, ()), token)
        yield by_number
