"""Text towers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, Int32

from mmjax.batch import Encoded, Text
from mmjax.encoders.base import Encoder
from mmjax.layers import LearnedPositions, Transformer
from mmjax.sharding import gather_table, param_axes


class TextTransformer(Encoder):
    """Token, position and sentence-type embeddings, then the trunk.

    The token table starts at standard deviation width^-1/2 and its rows are scaled by width^1/2 when read
    (Vaswani et al. 2017, section 3.4): unit-scale inputs, and unit-scale logits for a head tied to the table.

    `hash_ngrams`, e.g. (2, 3), adds to every position a learned vector of each n-gram that ends there, found
    by hashing into `hash_buckets` rows (Pagnoni et al. 2024, Byte Latent Transformer, section 3.2.1). A small
    vocabulary then costs little knowledge of whole words. An n-gram over a masked token hashes the mask.

    A text with a `prefix` is read both ways within it and causally after it (Raffel et al. 2020, section
    3.2.3); the trunk is then one that is not causal by itself.
    """

    vocab: int
    trunk: Transformer
    max_length: int = 512
    num_token_types: int = 2
    hash_ngrams: tuple[int, ...] = ()
    hash_buckets: int = 4096
    position_scale: float = 1.0

    def setup(self):
        width = self.trunk.width
        init = param_axes(nn.initializers.normal(width**-0.5), "vocab", "embed")
        self.table = self.param("table", init, (self.vocab, width))
        init = param_axes(nn.initializers.normal(0.02), None, "embed")
        self.types = gather_table(self.param("types", init, (self.num_token_types, width)), None)
        if self.hash_ngrams:
            # Near zero: an n-gram never seen in training must say nothing.
            init = param_axes(nn.initializers.normal(0.02), "vocab", "embed")
            rows = len(self.hash_ngrams) * self.hash_buckets
            self.ngrams = gather_table(self.param("ngrams", init, (rows, width)))
        self.positions = LearnedPositions(self.max_length, self.position_scale)

    def token_table(self):
        return self.table

    @property
    def is_causal(self):
        return self.trunk.causal

    def __call__(self, text: Text, train: bool = False) -> Encoded:
        """Text ``"B L"`` -> Encoded ``"B L D"``."""
        width = self.trunk.width
        # An n-gram may reach back over padding between two sentences.
        tokens = jnp.where(text.mask, text.tokens, 0)
        x = jnp.take(gather_table(self.table), tokens, axis=0) * width**0.5
        x = x + jnp.take(self.types, text.token_types, axis=0)
        for i, n in enumerate(self.hash_ngrams):
            bucket = hash_ngram(tokens, n, self.hash_buckets) + i * self.hash_buckets
            x = x + jnp.take(self.ngrams, bucket, axis=0) * width**0.5
        allowed = None
        if text.prefix is not None:
            if self.trunk.causal:
                raise ValueError("a text with a prefix needs a trunk with causal=False, found causal=True")
            allowed = prefix_or_before(text.prefix)
        return self.trunk.encode(self.positions(x), text.mask, train, allowed)


def prefix_or_before(prefix: Bool[jax.Array, "B L"]) -> Bool[jax.Array, "B L L"]:
    """Which position (row) may see which (column): the prefix, itself, and what stands before it."""
    return prefix[:, None, :] | jnp.tri(prefix.shape[1], dtype=bool)[None]


def hash_ngram(tokens: Int[jax.Array, "B L"], n: int, buckets: int) -> Int32[jax.Array, "B L"]:
    """A bucket for the n tokens that end at each position (padding 0 before the start)."""
    length = tokens.shape[1]
    padded = jnp.pad(tokens, ((0, 0), (n - 1, 0))).astype(jnp.uint32)
    value = jnp.zeros(tokens.shape, jnp.uint32)
    for offset in range(n):
        # FNV-1a over whole token ids, with a final shift because its low bits mix poorly.
        value = (value ^ padded[:, offset : offset + length]) * jnp.uint32(16_777_619) + jnp.uint32(n)
    return ((value ^ (value >> 15)) % jnp.uint32(buckets)).astype(jnp.int32)
