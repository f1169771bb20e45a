"""Pairs made from different examples: two sentences, or two modalities."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.batch import RECORDS, Text, is_present
from mmjax.ranges import Fraction, Positive
from mmjax.views.base import View
from mmjax.views.checksums import equal_rows, row_contents
from mmjax.views.partners import random_partners


@dataclasses.dataclass(frozen=True)
class SentencePairs(View):
    """Joins two texts as `[CLS] first [SEP] second [SEP]` for next-sentence prediction (BERT's NSP).

    Adds the stream `stream`. With `mismatch_probability`, the second text comes from another row; a row whose
    mismatched second text equals its own, or comes from the same record, is invalid.

    Targets: is_next bool "B", valid bool "B".
    """

    first: str
    second: str
    stream: str = "pair"
    mismatch_probability: Fraction = 0.5

    def changed_streams(self):
        return (self.stream,)

    def compared_streams(self):
        return (self.second,)

    def needs_other_rows(self):
        return True

    def made_texts(self):
        return {self.stream: self.first}

    def transform_batch(self, batch, key):
        first, second = batch[self.first], batch[self.second]
        rows = first.tokens.shape[0]
        partner_key, choose_key = jax.random.split(key)
        other = random_partners(partner_key, rows)
        mismatched = jax.random.uniform(choose_key, (rows,)) < self.mismatch_probability
        paired = jax.tree.map(lambda x: x[jnp.where(mismatched, other, jnp.arange(rows))], second)
        sums, _ = row_contents(batch, self.second)
        is_equal = (sums == sums[other]).all(axis=1)
        if RECORDS in batch:
            is_equal |= batch[RECORDS].index == batch[RECORDS].index[other]
        valid = is_present(first) & is_present(second) & is_present(paired) & ~(mismatched & is_equal)
        # Drop the second text's [CLS], and number its words after those of the first.
        tail = jax.tree.map(lambda x: x[:, 1:], paired)
        words = jnp.where(tail.words >= 0, tail.words + first.tokens.shape[1], -1)
        pair = Text(
            tokens=jnp.concatenate([first.tokens, tail.tokens], axis=1),
            mask=jnp.concatenate([first.mask, tail.mask], axis=1) & valid[:, None],
            token_types=jnp.concatenate([jnp.zeros_like(first.tokens), jnp.ones_like(tail.tokens)], axis=1),
            words=jnp.concatenate([first.words, words], axis=1),
        )
        return batch | {self.stream: pair}, {"is_next": ~mismatched, "valid": valid}


@dataclasses.dataclass(frozen=True)
class HardNegatives(View):
    """Pairs encodings for matching: B true pairs, B with a wrong `second`, B with a wrong `first`.

    Negatives are sampled from the batch in proportion to exp(similarity / temperature), where the similarity
    is that of two embedding heads (Li et al. 2021, ALBEF, section 3.2). A row with an equal `first` or
    `second`, or of the same record, is never a negative. Other streams are masked, since they would reveal
    which side was replaced.

    Targets: matches bool "3B", valid bool "3B".
    """

    first: str
    second: str
    heads: tuple[str, str]
    temperature: Positive = 0.1

    def compared_heads(self):
        return self.heads

    def required_streams(self):
        return (self.first, self.second)

    def compared_streams(self):
        return (self.first, self.second)

    def needs_other_rows(self):
        return True

    def transform_encoded(self, encoded, predictions, batch, key):
        similarity = (
            jax.lax.stop_gradient(predictions[self.heads[0]] @ predictions[self.heads[1]].T)
            / self.temperature
        )
        present = is_present(batch[self.first]) & is_present(batch[self.second])
        is_equal = equal_rows(batch, self.first) | equal_rows(batch, self.second)
        allowed = ~is_equal & present[:, None] & present[None, :]
        logits = jnp.where(allowed, similarity, -1e9)
        first_key, second_key = jax.random.split(key)
        wrong_second = jax.random.categorical(second_key, logits, axis=1)
        wrong_first = jax.random.categorical(first_key, logits.T, axis=1)
        own = jnp.arange(present.shape[0])
        first_rows = jnp.concatenate([own, own, wrong_first])
        second_rows = jnp.concatenate([own, wrong_second, own])
        valid = jnp.concatenate([present, present & allowed.any(1), present & allowed.any(0)])
        paired = {}
        for stream, value in encoded.items():
            rows = first_rows if stream == self.first else second_rows
            keep = valid if stream in (self.first, self.second) else jnp.zeros_like(valid)
            value = jax.tree.map(lambda x, rows=rows: x[rows], value)
            paired[stream] = value.replace(mask=value.mask & keep[:, None])
        return paired, {"matches": jnp.arange(3 * present.shape[0]) < present.shape[0], "valid": valid}
