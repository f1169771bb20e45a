"""Masked and corrupted spans of words."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Int32

from mmjax.batch import Text
from mmjax.data.vocabulary import SEP_ID
from mmjax.ranges import Count, OpenFraction, PositiveFraction, Size, Vocab, Whole
from mmjax.views.base import View
from mmjax.views.tokens import MaskText


@dataclasses.dataclass(frozen=True)
class MaskSpans(MaskText):
    """Masks runs of whole words (Joshi et al. 2020, SpanBERT, section 3.1).

    Spans are sampled until the fraction `rate` of the text's tokens is masked; the last span ends there, at a
    word boundary. Starts are uniform over tokens. Lengths in words are geometric, with parameter
    `geometric_p` and at most `max_span_length`: 3.8 on average with the paper's 0.2 and 10. All tokens of a
    span are replaced alike: 80 % [MASK], 10 % random tokens, 10 % unchanged. At least one word per text is
    masked; special tokens never are. Other fields and targets: see `MaskText`.
    """

    geometric_p: OpenFraction = 0.2
    max_span_length: Count = 10

    def transform_batch(self, batch, key):
        text: Text = batch[self.stream]
        span_key, replace_key, token_key = jax.random.split(key, 3)
        span = sample_spans(text, span_key, self.rate, self.geometric_p, self.max_span_length)
        draw = jax.random.uniform(replace_key, text.tokens.shape)
        draw = jnp.take_along_axis(draw, jnp.maximum(span, 0), axis=1)
        return self.corrupt(batch, span >= 0, draw, token_key)


@dataclasses.dataclass(frozen=True)
class CorruptSpans(View):
    """Moves spans of a text into a target for a decoder (Raffel et al. 2020, T5, section 3.1.4).

    Adds two streams. `source` is the text with each masked run replaced by one sentinel token. `target` is
    the first token, then each run after its sentinel, then the next sentinel and [SEP]; it is truncated to
    `target_length`. Sentinel n has the id `vocab` + n, so the encoders of both streams need `vocab` +
    `num_sentinels` embeddings. Spans are sampled as in `MaskSpans`; the default mean is just under 3 words.
    """

    stream: str
    vocab: Vocab
    target_length: Size
    source: str = "source"
    target: str = "target"
    rate: PositiveFraction = 0.15
    geometric_p: OpenFraction = 1 / 3
    max_span_length: Count = 10
    num_sentinels: Size = 32
    sep_id: Whole = SEP_ID

    def changed_streams(self):
        return (self.source, self.target)

    def made_texts(self):
        return {self.source: self.stream, self.target: self.stream}

    def check_vocabularies(self, vocabularies):
        vocabulary = vocabularies.get(self.stream)
        if vocabulary is None:
            return None
        if self.vocab < vocabulary.size:
            return (
                f"CorruptSpans expects vocab={vocabulary.size} of the stream {self.stream!r}, found "
                f"{self.vocab}: the sentinels, whose ids follow, would be tokens of the text"
            )
        if self.sep_id != vocabulary.sep_id:
            return (
                f"CorruptSpans expects sep_id={vocabulary.sep_id}, which the tokenizer of {self.stream!r} "
                f"has, found {self.sep_id}: put sep_id={vocabulary.sep_id}"
            )
        return None

    def transform_batch(self, batch, key):
        text: Text = batch[self.stream]
        masked = sample_spans(text, key, self.rate, self.geometric_p, self.max_span_length) >= 0
        starts = masked & ~jnp.pad(masked, ((0, 0), (1, 0)))[:, :-1]
        run = jnp.cumsum(starts, axis=1)  # the number of runs so far: 1 within the first
        source = scatter_tokens(
            jnp.where(starts, self.sentinel(run - 1), text.tokens),
            jnp.cumsum(~masked | starts, axis=1) - 1,
            text.mask & (~masked | starts),
            text.tokens.shape[1],
        )
        # Position 0 of the target holds the text's first token, and each run is preceded by its sentinel.
        position = jnp.cumsum(masked, axis=1) + run
        num_masked, num_runs = masked.sum(1, keepdims=True), run[:, -1:]
        present = text.mask.any(1, keepdims=True)
        pieces = (
            (text.tokens[:, :1], jnp.zeros_like(num_runs), present),
            (self.sentinel(run - 1), position - 1, starts),
            (text.tokens, position, masked),
            (self.sentinel(num_runs), num_masked + num_runs + 1, present),
            (jnp.full_like(num_runs, self.sep_id), num_masked + num_runs + 2, present),
        )
        target = scatter_tokens(
            *(jnp.concatenate(arrays, axis=1) for arrays in zip(*pieces, strict=True)), self.target_length
        )
        return batch | {self.source: source, self.target: target}, {}

    def sentinel(self, number: Int32[jax.Array, "..."]) -> Int32[jax.Array, "..."]:
        """The token id of sentinel `number`; numbers beyond the last sentinel share its id."""
        return self.vocab + jnp.clip(number, 0, self.num_sentinels - 1)


def scatter_tokens(tokens: jax.Array, positions: jax.Array, valid: jax.Array, length: int) -> Text:
    """A Text "B length" with `tokens` at `positions` where `valid`, "B N" each; later positions are cut."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    positions = jnp.where(valid, positions, length)  # out of bounds, hence dropped
    empty = jnp.zeros((tokens.shape[0], length), jnp.int32)
    scattered = empty.at[rows, positions].set(tokens, mode="drop")
    mask = (empty > 0).at[rows, positions].set(True, mode="drop")
    return Text(scattered, mask, empty, empty - 1)


def sample_spans(
    text: Text, key: jax.Array, rate: float, geometric_p: float, max_span_length: int
) -> Int32[jax.Array, "B L"]:
    """The number of the span that each position is masked by, or -1."""
    maskable = text.mask & (text.words >= 0)
    starts = text.words != jnp.pad(text.words, ((0, 0), (1, 0)), constant_values=-2)[:, :-1]
    word = jnp.cumsum(starts, axis=1)  # without gaps; special tokens are numbered too, but never masked
    budget = jnp.maximum(jnp.round(rate * maskable.sum(1, keepdims=True)), 1)

    def add_span(number, span):
        start_key, length_key = jax.random.split(jax.random.fold_in(key, number))
        free = maskable & (span < 0)
        start = jnp.where(free, jax.random.uniform(start_key, free.shape), -1).argmax(1, keepdims=True)
        first_word = jnp.take_along_axis(word, start, axis=1)
        end_word = first_word + sample_span_lengths(
            length_key, first_word.shape, geometric_p, max_span_length
        )
        new = free & (word >= first_word) & (word < end_word)
        # Count up to the start of each word, so that the budget never cuts a word in half.
        before = jax.lax.cummax(jnp.where(starts, jnp.cumsum(new, axis=1) - new, 0), axis=1)
        num_masked = (span >= 0).sum(1, keepdims=True)
        return jnp.where(new & (num_masked + before < budget), number, span)

    # Each span masks at least one more token until the budget is spent.
    max_spans = max(1, math.ceil(rate * text.tokens.shape[1]))
    return jax.lax.fori_loop(0, max_spans, add_span, jnp.full(text.tokens.shape, -1, jnp.int32))


def sample_span_lengths(
    key: jax.Array, shape: tuple[int, ...], geometric_p: float, max_span_length: int
) -> Int32[jax.Array, "..."]:
    """Samples a geometric distribution from 1, truncated at `max_span_length`, by the inverse of its CDF."""
    draw = jax.random.uniform(key, shape) * (1 - (1 - geometric_p) ** max_span_length)
    num_failures = jnp.floor(jnp.log1p(-draw) / math.log1p(-geometric_p)).astype(jnp.int32)
    return 1 + num_failures.clip(0, max_span_length - 1)
