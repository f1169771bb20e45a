"""Spans of words hidden."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Int32

from mmjax.batch import Text
from mmjax.data.vocabulary import MASK_ID, SEP_ID, SPECIAL_TOKENS
from mmjax.errors import InputError
from mmjax.views.base import View
from mmjax.views.tokens import corrupt


@dataclasses.dataclass(frozen=True)
class MaskSpans(View):
    """Runs of whole words hidden (Joshi et al. 2020, SpanBERT, section 3.1); read by `MaskedLanguage`.

    Spans are drawn until a share `rate` of the text's tokens is hidden; the last ends where that is reached.
    A span starts at any token, and its length in words is geometric with parameter `stop`, at most `longest`:
    3.8 words in the mean with the paper's 0.2 and 10. A span is replaced as a whole: 80 % [MASK], 10 % random
    tokens, 10 % as it is. In every text at least one word is hidden; special tokens never are.
    Targets: as MaskTokens's, tokens int32 ``"B L"`` (the original), masked bool ``"B L"``.
    """

    stream: str
    vocab: int
    rate: float = 0.15
    stop: float = 0.2
    longest: int = 10  # words
    mask_id: int = MASK_ID
    num_special: int = len(SPECIAL_TOKENS)  # ids below are special and are never drawn as a random token
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self):
        check_spans(self.rate, self.stop, self.longest)

    def changed_streams(self):
        return (self.stream,)

    def transform_batch(self, batch, key):
        text: Text = batch[self.stream]
        span_key, replace_key, token_key = jax.random.split(key, 3)
        span = draw_spans(text, span_key, self.rate, self.stop, self.longest)
        how = jax.random.uniform(replace_key, text.tokens.shape)
        how = jnp.take_along_axis(how, jnp.maximum(span, 0), axis=1)
        random_tokens = jax.random.randint(token_key, text.tokens.shape, self.num_special, self.vocab)
        hidden = corrupt(text, span >= 0, how, random_tokens, self)
        return batch | {self.stream: hidden}, {"tokens": text.tokens, "masked": span >= 0}


@dataclasses.dataclass(frozen=True)
class CorruptSpans(View):
    """Spans taken out of a text, to be said by a decoder (Raffel et al. 2020, T5, section 3.1.4).

    Makes the streams `source`, the text with each run of hidden words replaced by one sentinel, and `target`:
    first token, then for each run its sentinel and its words, then the next sentinel, then [SEP]. Sentinel n
    is token `vocab` + n, so the towers of both have `vocab` + `num_sentinels` rows. What does not fit in
    `target_length` is cut. Spans are drawn as by MaskSpans, of just under 3 words in the mean.
    """

    stream: str
    vocab: int
    target_length: int
    source: str = "source"
    target: str = "target"
    rate: float = 0.15
    stop: float = 1 / 3
    longest: int = 10  # words
    num_sentinels: int = 32
    sep_id: int = SEP_ID

    def __post_init__(self):
        check_spans(self.rate, self.stop, self.longest)

    def changed_streams(self):
        return (self.source, self.target)

    def transform_batch(self, batch, key):
        text: Text = batch[self.stream]
        hidden = draw_spans(text, key, self.rate, self.stop, self.longest) >= 0
        starts = hidden & ~jnp.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
        run = jnp.cumsum(starts, axis=1)  # number of runs so far, from 1 in the first
        source = scatter_tokens(
            jnp.where(starts, self.sentinel(run - 1), text.tokens),
            jnp.cumsum(~hidden | starts, axis=1) - 1,
            text.mask & (~hidden | starts),
            text.tokens.shape[1],
        )
        # The target's first place is the text's own first token; a run stands one further, for its sentinel.
        place = jnp.cumsum(hidden, axis=1) + run
        num_hidden, num_runs = hidden.sum(1, keepdims=True), run[:, -1:]
        there = text.mask.any(1, keepdims=True)
        pieces = (
            (text.tokens[:, :1], jnp.zeros_like(num_runs), there),
            (self.sentinel(run - 1), place - 1, starts),
            (text.tokens, place, hidden),
            (self.sentinel(num_runs), num_hidden + num_runs + 1, there),
            (jnp.full_like(num_runs, self.sep_id), num_hidden + num_runs + 2, there),
        )
        target = scatter_tokens(
            *(jnp.concatenate(each, axis=1) for each in zip(*pieces, strict=True)), self.target_length
        )
        return batch | {self.source: source, self.target: target}, {}

    def sentinel(self, number: jax.Array) -> jax.Array:
        """Token of the sentinel of this number; the last serves all that are beyond it."""
        return self.vocab + jnp.clip(number, 0, self.num_sentinels - 1)


def scatter_tokens(tokens: jax.Array, places: jax.Array, there: jax.Array, length: int) -> Text:
    """The text whose token number `places` is `tokens`, of those that are `there`."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    places = jnp.where(there, places, length)  # beyond the end: dropped
    empty = jnp.zeros((tokens.shape[0], length), jnp.int32)
    made = empty.at[rows, places].set(tokens, mode="drop")
    mask = (empty > 0).at[rows, places].set(True, mode="drop")
    return Text(made, mask, empty, empty - 1)


def draw_spans(text: Text, key: jax.Array, rate: float, stop: float, longest: int) -> Int32[jax.Array, "B L"]:
    """The number of the span in which each position is hidden, and -1 where it is not."""
    maskable = text.mask & (text.words >= 0)
    starts = text.words != jnp.pad(text.words, ((0, 0), (1, 0)), constant_values=-2)[:, :-1]
    word = jnp.cumsum(starts, axis=1)  # numbered without gaps; special tokens count, and are never hidden
    budget = jnp.maximum(jnp.round(rate * maskable.sum(1, keepdims=True)), 1)

    def draw(number, span):
        start_key, length_key = jax.random.split(jax.random.fold_in(key, number))
        free = maskable & (span < 0)
        place = jnp.where(free, jax.random.uniform(start_key, free.shape), -1).argmax(1, keepdims=True)
        first = jnp.take_along_axis(word, place, axis=1)
        last = first + span_lengths(length_key, first.shape, stop, longest)
        new = free & (word >= first) & (word < last)
        # How many this span hides before each word: a word is hidden whole, or not at all.
        before = jax.lax.cummax(jnp.where(starts, jnp.cumsum(new, axis=1) - new, 0), axis=1)
        hidden = (span >= 0).sum(1, keepdims=True)
        return jnp.where(new & (hidden + before < budget), number, span)

    # Each hides at least one token more, until the budget is spent.
    most = max(1, math.ceil(rate * text.tokens.shape[1]))
    return jax.lax.fori_loop(0, most, draw, jnp.full(text.tokens.shape, -1, jnp.int32))


def span_lengths(key: jax.Array, shape: tuple[int, ...], stop: float, longest: int) -> jax.Array:
    """Geometric from 1, given that it is at most `longest`: by the inverse of its distribution."""
    draw = jax.random.uniform(key, shape) * (1 - (1 - stop) ** longest)
    return 1 + jnp.floor(jnp.log1p(-draw) / math.log1p(-stop)).astype(jnp.int32).clip(0, longest - 1)


def check_spans(rate: float, stop: float, longest: int) -> None:
    """Refuses what would hide nothing, or draw no length."""
    if not (0 < rate <= 1 and 0 < stop < 1 and longest >= 1):
        raise InputError(
            "spans expect a rate in (0, 1], stop in (0, 1) and longest of at least 1, found "
            f"rate={rate}, stop={stop}, longest={longest}"
        )
