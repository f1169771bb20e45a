"""Which hidden words can the model read, given speech, given lips, given both, given neither?

audio+image/word                  words read right, with audio and image there and other context streams not
nothing/word                      the same from the text alone
audio/token                       tokens rather than words: a word is right when all its tokens are
audio/word/letter                 words of one slot
all_masked/audio/word[/letter]    every word hidden at once, so that the other words give nothing away
unigram/word[/letter], /token     always the most common word (of the slot), or token, of the training data
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np

from mmjax import data
from mmjax.batch import Batch, Text
from mmjax.errors import InputError
from mmjax.evals import pictures
from mmjax.evals.base import DrawPicture, Eval, Predictor, Result, check_finite, has_streams
from mmjax.evals.subsets import missing, named, subsets
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedWords(Eval):
    """Hides words and streams in the batch itself, then asks for the clean view: one compilation for all.

    With ``slots``, texts are sentences of one form, and slot n is word n: each is hidden alone. Without, a
    share ``rate`` of each text's words is hidden, at least one. Only examples with the text and every context
    stream count, so the subsets of the context are compared on the same examples.
    """

    stream: str = "text"
    head: str = "words"  # a TokenLogits head
    context: tuple[str, ...] = ()  # other streams that the head can see
    slots: tuple[str, ...] | None = None
    all_masked: bool = False  # measure also with every word hidden
    rate: float = 0.15
    train: data.Dataset | None = None  # for the unigram baseline; None: the evaluated data, which flatters it
    train_limit: int | None = 20_000

    def __post_init__(self):
        self.check_streams(self.stream, *self.context)
        self.check_no_subsets_of("Name these streams in `context`")

    def required_heads(self) -> tuple[str, ...]:
        return (self.head,)

    def __call__(self, predictor: Predictor) -> Result:
        tokenizer = self.data.streams[self.stream].tokenizer.open()
        unigram = Unigram.of(
            data.epoch(self.train or self.data, self.batch_size, self.train_limit), self.stream
        )
        scores: dict[str, Score] = collections.defaultdict(Score)
        for number, batch in enumerate(self.batches()):
            counted = has_streams(batch, self.stream, *self.context)
            for kind, slot, hidden in self.masks(batch[self.stream], seed=number):
                hidden = hidden & counted[:, None]
                if not hidden.any():
                    continue
                tokens = np.asarray(batch[self.stream].tokens)
                text = batch[self.stream].replace(
                    tokens=np.where(hidden, tokenizer.mask_id, tokens).astype(np.int32)
                )
                for given in subsets(self.context):
                    seen = {stream: missing(batch[stream]) for stream in self.context if stream not in given}
                    outputs, _ = predictor(batch | seen | {self.stream: text}, Identity(), (self.head,))
                    right = check_finite(self.head, outputs[self.head]).argmax(axis=-1) == tokens
                    self._count(scores, kind + named(given), slot, batch[self.stream], hidden, right)
                if not kind:
                    right = unigram.right(batch[self.stream], hidden, slot)
                    self._count(scores, "unigram", slot, batch[self.stream], hidden, right)
        if not scores:
            raise InputError(
                f"masked words: no example of the data has {[self.stream, *self.context]} and a word to hide"
            )
        metrics = {name: scores[name].right / scores[name].total for name in self._names() if name in scores}
        return Result(metrics, self._pictures(metrics))

    def masks(self, text: Text, seed: int) -> Iterator[tuple[str, int | None, np.ndarray]]:
        """(prefix of the names, slot or None, hidden bool "B L") for each way of hiding words."""
        words = np.where(np.asarray(text.mask), np.asarray(text.words), -1)
        if self.slots:
            for slot in range(len(self.slots)):
                yield "", slot, words == slot
        else:
            # A text's draw number n belongs to its word n; whole words are hidden, and the least draw always.
            draws = np.random.default_rng(seed).uniform(size=words.shape)
            draws = np.where(words >= 0, np.take_along_axis(draws, np.maximum(words, 0), axis=1), 2)
            yield "", None, (words >= 0) & ((draws < self.rate) | (draws == draws.min(axis=1, keepdims=True)))
        if self.all_masked:
            yield "all_masked/", None, words >= 0

    def _names(self) -> list[str]:
        """All the metrics, in the order in which a table shows them."""
        given = [named(streams) for streams in subsets(self.context)]
        measures = ["token", "word", *(f"word/{slot}" for slot in self.slots or ())]
        whose = [*given, "unigram", *(f"all_masked/{streams}" for streams in given)]
        return [f"{who}/{measure}" for who in whose for measure in measures]

    def _count(
        self, scores: dict, name: str, slot: int | None, text: Text, hidden: np.ndarray, right: np.ndarray
    ):
        """Adds a batch's hits. ``hidden`` and ``right`` are bool "B L"."""
        scores[f"{name}/token"].add((right & hidden).sum(), hidden.sum())
        words = np.asarray(text.words)
        for number in np.unique(words[hidden]):
            here = hidden & (words == number)
            asked = here.any(axis=1)
            hits = (asked & (right | ~here).all(axis=1)).sum()
            scores[f"{name}/word"].add(hits, asked.sum())
            if self.slots and number < len(self.slots):
                scores[f"{name}/word/{self.slots[number]}"].add(hits, asked.sum())

    def _pictures(self, metrics: dict[str, float]) -> dict[str, DrawPicture]:
        groups = self.slots or ("token", "word")
        path = "word/" if self.slots else ""
        drawn: dict[str, DrawPicture] = {}
        for kind, title in (
            ("", "Hidden words that the model reads, given ..."),
            ("all_masked/", "The same, all words hidden"),
        ):
            names = [named(given) for given in subsets(self.context)]
            if any(f"{kind}{name}/{path}{group}" not in metrics for name in names for group in groups):
                continue  # not measured, or a slot that no text has
            drawn[f"{kind.strip('/') or 'masked'}_words"] = partial(
                pictures.bars,
                title=title,
                subtitle="share of right answers by " + ("slot" if self.slots else "unit"),
                groups=groups,
                heights={
                    name.replace("+", " + "): [metrics[f"{kind}{name}/{path}{group}"] for group in groups]
                    for name in names
                },
                lines=[metrics[f"unigram/{path}{group}"] for group in groups],
                line_name="most common answer",
            )
        return drawn


@dataclasses.dataclass
class Score:
    """Right answers of all answers."""

    right: int = 0
    total: int = 0

    def add(self, right: int, total: int) -> None:
        self.right, self.total = self.right + int(right), self.total + int(total)


@dataclasses.dataclass(frozen=True)
class Unigram:
    """The most common token, and the most common word (a tuple of tokens) everywhere and at each place."""

    token: int
    word: tuple[int, ...]
    word_at: dict[int, tuple[int, ...]]

    @classmethod
    def of(cls, batches: Iterator[Batch], stream: str) -> "Unigram":
        tokens: collections.Counter = collections.Counter()
        words: collections.Counter = collections.Counter()
        at: dict[int, collections.Counter] = collections.defaultdict(collections.Counter)
        for batch in batches:
            for row in _words(batch[stream]):
                tokens.update(itertools.chain.from_iterable(row.values()))
                words.update(row.values())
                for place, word in row.items():
                    at[place][word] += 1
        if not tokens:
            raise InputError(f"unigram baseline: the data hold no text in {stream!r}: give another `train`")
        return cls(_top(tokens), _top(words), {place: _top(counts) for place, counts in at.items()})

    def right(self, text: Text, hidden: np.ndarray, slot: int | None) -> np.ndarray:
        """bool "B L": what always the same answer gets right, the slot's word, or else the token."""
        tokens = np.asarray(text.tokens)
        if slot is None:
            return tokens == self.token
        guess = self.word_at.get(slot, self.word)
        right = np.zeros_like(hidden)
        for row, words in enumerate(_words(text)):
            right[row] = hidden[row] & (words.get(slot) == guess)
        return right


def _words(text: Text) -> Iterator[dict[int, tuple[int, ...]]]:
    """{word number: its tokens} of each row."""
    rows = zip(np.asarray(text.tokens), np.asarray(text.words), np.asarray(text.mask), strict=True)
    for tokens, words, mask in rows:
        found: dict[int, tuple[int, ...]] = {}
        for token, word in zip(tokens[mask].tolist(), words[mask].tolist(), strict=True):
            if word >= 0:
                found[word] = (*found.get(word, ()), token)
        yield found


def _top(counts: collections.Counter):
    """The most common; of equals the least, so that the order of the data decides nothing."""
    return min(counts, key=lambda value: (-counts[value], value))
