"""What an objective looks at: the batch as it is, with words masked, with streams missing, or paired anew.

A view acts in two places. `inputs` remakes some streams of the batch before they are encoded; `encodings`
re-pairs or drops what has been encoded already, which costs no encoder. The Learner encodes each distinct
input once and shares it. Views are hashable values; everything random comes from a key made of (seed, step).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from mmjax.batch import Batch, Encoded, Stream, Text, present

Targets = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Clean:
    """The batch as it is. Every view has these methods."""

    def changes(self) -> tuple[str, ...]:
        """The streams that `inputs` remakes, and that must be encoded again."""
        return ()

    def compares(self) -> tuple[str, ...]:
        """The heads of the clean view whose predictions `encodings` needs."""
        return ()

    def encodes(self) -> tuple[str, ...]:
        """The streams whose encodings `encodings` needs, so that some head must read them."""
        return ()

    def inputs(self, batch: Batch, key: jax.Array) -> tuple[Batch, Targets]:
        """The remade batch, and what a model that looks at it should answer."""
        return batch, {}

    def encodings(
        self, encoded: dict[str, Encoded], predictions: dict[str, jax.Array], batch: Batch, key: jax.Array
    ) -> tuple[dict[str, Encoded], Targets]:
        """Encodings and the clean view's predictions -> encodings anew, and targets."""
        return encoded, {}


@dataclasses.dataclass(frozen=True)
class MaskTokens(Clean):
    """Some tokens hidden: 80 % as [MASK], 10 % as a random token, 10 % as they are (Devlin et al. 2019).

    unit: each "token" is drawn by itself, a "word" with all its tokens (whole-word masking), or "all" words
    are. In every text at least one unit is hidden, so short texts train too; special tokens never are.
    Targets: tokens int32 ``"B L"`` (the original), masked bool ``"B L"``.
    """

    stream: str
    vocab: int
    rate: float = 0.15
    unit: Literal["token", "word", "all"] = "word"
    mask_id: int = 4
    num_special: int = 5  # ids below are special and are never drawn as a random token
    mask_share: float = 0.8
    random_share: float = 0.1

    def changes(self):
        return (self.stream,)

    def inputs(self, batch, key):
        text: Text = batch[self.stream]
        select_key, replace_key, token_key = jax.random.split(key, 3)
        maskable = text.mask & (text.words >= 0)
        draw = jax.random.uniform(select_key, text.tokens.shape)
        if self.unit == "word":
            draw = jnp.take_along_axis(draw, jnp.maximum(text.words, 0), axis=1)
        draw = jnp.where(maskable, draw, 2.0)
        masked = maskable if self.unit == "all" else maskable & (
            (draw < self.rate) | (draw == draw.min(axis=1, keepdims=True))
        )  # fmt: skip
        how = jax.random.uniform(replace_key, text.tokens.shape)
        random_tokens = jax.random.randint(token_key, text.tokens.shape, self.num_special, self.vocab)
        hidden = jnp.where(how < self.mask_share, self.mask_id, text.tokens)
        hidden = jnp.where(how >= 1 - self.random_share, random_tokens, hidden)
        changed = text.replace(tokens=jnp.where(masked, hidden, text.tokens))
        return batch | {self.stream: changed}, {"tokens": text.tokens, "masked": masked}


@dataclasses.dataclass(frozen=True)
class Drop(Clean):
    """Whole streams missing, each example and stream by itself with the given probability.

    rates: ((stream, probability), ...). A dropped stream is a mask that is False, as if it had never been.
    """

    rates: tuple[tuple[str, float], ...]

    def encodes(self):
        return tuple(stream for stream, _ in self.rates)

    def encodings(self, encoded, predictions, batch, key):
        for i, (stream, rate) in enumerate(self.rates):
            value = encoded[stream]
            kept = jax.random.uniform(jax.random.fold_in(key, i), (value.mask.shape[0], 1)) >= rate
            encoded = encoded | {stream: value.replace(mask=value.mask & kept)}
        return encoded, {}


@dataclasses.dataclass(frozen=True)
class Pairs(Clean):
    """Two texts as one, ``[CLS] first [SEP] second [SEP]``; half of the seconds are other rows' (BERT's NSP).

    Makes the stream `stream`. A row whose second happens to equal its own is no example of a mismatch, and is
    left out. Targets: is_next bool ``"B"``, valid bool ``"B"``.
    """

    first: str
    second: str
    stream: str = "pair"
    mismatched: float = 0.5

    def changes(self):
        return (self.stream,)

    def inputs(self, batch, key):
        first, second = batch[self.first], batch[self.second]
        rows = first.tokens.shape[0]
        shift_key, choose_key = jax.random.split(key)
        # One random rotation: every row keeps a partner of its own, and no partner is used twice.
        other = (jnp.arange(rows) + jax.random.randint(shift_key, (), 1, max(rows, 2))) % rows
        swap = jax.random.uniform(choose_key, (rows,)) < self.mismatched
        partner = jax.tree.map(lambda x: x[jnp.where(swap, other, jnp.arange(rows))], second)
        same_tokens = (partner.tokens == second.tokens) | ~second.mask
        same = (same_tokens & (partner.mask == second.mask)).all(axis=1)
        valid = present(first) & present(second) & present(partner) & ~(swap & same)
        # The second's [CLS] goes; its words are numbered after the first's.
        tail = jax.tree.map(lambda x: x[:, 1:], partner)
        words = jnp.where(tail.words >= 0, tail.words + first.tokens.shape[1], -1)
        pair = Text(
            tokens=jnp.concatenate([first.tokens, tail.tokens], axis=1),
            mask=jnp.concatenate([first.mask, tail.mask], axis=1) & valid[:, None],
            token_types=jnp.concatenate([jnp.zeros_like(first.tokens), jnp.ones_like(tail.tokens)], axis=1),
            words=jnp.concatenate([first.words, words], axis=1),
        )
        return batch | {self.stream: pair}, {"is_next": ~swap, "valid": valid}


@dataclasses.dataclass(frozen=True)
class HardNegatives(Clean):
    """True pairs, then each `first` with a wrong `second`, then each `second` with a wrong `first`: 3 B rows.

    Wrong partners are drawn from the batch in proportion to exp(similarity / temperature) of two embedding
    heads (Li et al. 2021, ALBEF, section 3.2). A row whose `second` or `first` is identical is never a
    negative. Other streams are missing in these rows: they would tell which half is the wrong one.
    Targets: matches bool ``"3B"``, valid bool ``"3B"``.
    """

    first: str
    second: str
    heads: tuple[str, str]
    temperature: float = 0.1

    def compares(self):
        return self.heads

    def encodes(self):
        return (self.first, self.second)

    def encodings(self, encoded, predictions, batch, key):
        similarity = (
            jax.lax.stop_gradient(predictions[self.heads[0]] @ predictions[self.heads[1]].T)
            / self.temperature
        )
        here = present(batch[self.first]) & present(batch[self.second])
        identical = same_content(batch[self.first]) | same_content(batch[self.second])
        allowed = ~identical & here[:, None] & here[None, :]
        logits = jnp.where(allowed, similarity, -1e9)
        first_key, second_key = jax.random.split(key)
        wrong_second = jax.random.categorical(second_key, logits, axis=1)
        wrong_first = jax.random.categorical(first_key, logits.T, axis=1)
        own = jnp.arange(here.shape[0])
        firsts = jnp.concatenate([own, own, wrong_first])
        seconds = jnp.concatenate([own, wrong_second, own])
        valid = jnp.concatenate([here, here & allowed.any(1), here & allowed.any(0)])
        paired = {}
        for stream, value in encoded.items():
            rows = firsts if stream == self.first else seconds
            kept = valid if stream in (self.first, self.second) else jnp.zeros_like(valid)
            paired[stream] = Encoded(value.embeddings[rows], value.mask[rows] & kept[:, None])
        return paired, {"matches": jnp.arange(3 * here.shape[0]) < here.shape[0], "valid": valid}


@dataclasses.dataclass(frozen=True)
class Chain(Clean):
    """Views one after the other, e.g. words masked and then modalities dropped."""

    views: tuple[Clean, ...]

    def changes(self):
        return tuple(stream for view in self.views for stream in view.changes())

    def compares(self):
        return tuple(head for view in self.views for head in view.compares())

    def encodes(self):
        return tuple(stream for view in self.views for stream in view.encodes())

    def inputs(self, batch, key):
        targets: Targets = {}
        for i, view in enumerate(self.views):
            batch, more = view.inputs(batch, jax.random.fold_in(key, i))
            targets |= more
        return batch, targets

    def encodings(self, encoded, predictions, batch, key):
        targets: Targets = {}
        for i, view in enumerate(self.views):
            encoded, more = view.encodings(encoded, predictions, batch, jax.random.fold_in(key, i))
            targets |= more
        return encoded, targets


def same_content(stream: Stream) -> Bool[jax.Array, "B B"]:
    """Which rows hold exactly the same input, whatever is under a False mask; True on the diagonal."""
    equal = jnp.ones((stream.mask.shape[0],) * 2, dtype=bool)
    for leaf in jax.tree.leaves(stream):
        mask = stream.mask.reshape(stream.mask.shape + (1,) * (leaf.ndim - stream.mask.ndim))
        row = jnp.where(mask, leaf, 0).reshape(leaf.shape[0], -1)
        # Two checksums a row instead of B x B x inputs comparisons; modular, so equal rows agree to the bit.
        bits = (
            jax.lax.bitcast_convert_type(row, jnp.uint32)
            if row.dtype.itemsize == 4
            else row.astype(jnp.uint32)
        )
        for seed in (0, 1):
            salt = jax.random.bits(jax.random.key(seed), (1, bits.shape[1]), jnp.uint32)
            checksum = scramble(bits ^ salt).sum(axis=1, dtype=jnp.uint32)
            equal &= checksum[:, None] == checksum[None, :]
    return equal


def scramble(bits: jax.Array) -> jax.Array:
    """MurmurHash3's last step, uint32.

    A sum of multiples would not tell apart rows that differ only in high bits, such as the signs of black and
    white pixels.
    """
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
