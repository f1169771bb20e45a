"""Encoders of text by a Transformer."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Int32

from mmjax.batch import Encoded, Text
from mmjax.encoders.base import Encoder
from mmjax.layers import LearnedPositions, Transformer, Trunk
from mmjax.ranges import Count, NonNegative, Size, Vocab
from mmjax.sharding import gather_table, param_axes


class TextEncoder(Encoder):
    """The common part of text encoders: token and sentence-type embeddings, which a trunk reads.

    The token table is initialised with standard deviation D^-1/2, and its rows are multiplied by D^1/2 when
    they are read (Vaswani et al. 2017, section 3.4). Inputs, and the logits of a head that shares the table,
    then have unit scale.

    vocab: the number of tokens.
    num_token_types: the number of sentence types.
    """

    vocab: Vocab
    trunk: Trunk
    _: dataclasses.KW_ONLY
    num_token_types: Size = 2

    def setup(self):
        width = self.trunk.width
        init = param_axes(nn.initializers.normal(width**-0.5), "vocab", "embed")
        self.table = self.param("table", init, (self.vocab, width))
        init = param_axes(nn.initializers.normal(0.02), None, "embed")
        self.types = gather_table(self.param("types", init, (self.num_token_types, width)), None)

    def token_table(self):
        return self.table

    @property
    def is_causal(self):
        return self.trunk.is_causal

    def embed(
        self, tokens: Int[jax.Array, "B L"], token_types: Int[jax.Array, "B L"]
    ) -> Float[jax.Array, "B L D"]:
        """Returns the sum of the token and sentence-type embeddings."""
        x = jnp.take(gather_table(self.table), tokens, axis=0) * self.trunk.width**0.5
        return x + jnp.take(self.types, token_types, axis=0)


class TextTransformer(TextEncoder):
    """Token, sentence-type and position embeddings, then a Transformer.

    A text with a `prefix` has bidirectional attention within the prefix and causal attention after it (Raffel
    et al. 2020, section 3.2.3). Its trunk must have causal=False.

    max_length: the largest number of positions.
    hash_ngrams: lengths of n-grams, e.g. (2, 3). Every position also gets a learned vector for each n-gram
      that ends there, found by hashing (Pagnoni et al. 2024, Byte Latent Transformer, section 3.2.1). A small
      vocabulary then still distinguishes whole words. A masked token is hashed as the mask token.
    hash_buckets: the number of vectors for each n-gram length.
    """

    trunk: Transformer
    max_length: Size = 512
    hash_ngrams: tuple[Count, ...] = ()
    hash_buckets: Vocab = 4096
    position_init_std: NonNegative = 1.0

    def setup(self):
        super().setup()
        if self.hash_ngrams:
            # Small, so that n-grams that were not trained on add little.
            init = param_axes(nn.initializers.normal(0.02), "vocab", "embed")
            num_rows = len(self.hash_ngrams) * self.hash_buckets
            self.ngrams = gather_table(self.param("ngrams", init, (num_rows, self.trunk.width)))
        self.positions = LearnedPositions(self.max_length, self.position_init_std)

    def __call__(self, text: Text, train: bool = False) -> Encoded:
        # Padding between two sentences is zeroed, since an n-gram may span it.
        tokens = jnp.where(text.mask, text.tokens, 0)
        x = self.embed(tokens, text.token_types)
        for i, n in enumerate(self.hash_ngrams):
            bucket = hash_ngram(tokens, n, self.hash_buckets) + i * self.hash_buckets
            x = x + jnp.take(self.ngrams, bucket, axis=0) * self.trunk.width**0.5
        attention_mask = None
        if text.prefix is not None:
            if self.trunk.causal:
                raise ValueError("a text with a prefix needs a trunk with causal=False, found causal=True")
            attention_mask = prefix_lm_mask(text.prefix)
        return self.trunk.encode(self.positions(x), text.mask, train, attention_mask)


def prefix_lm_mask(prefix: Bool[jax.Array, "B L"]) -> Bool[jax.Array, "B L L"]:
    """The attention mask [query, key]: the key is in the prefix, or not later than the query."""
    return prefix[:, None, :] | jnp.tri(prefix.shape[1], dtype=bool)[None]


def hash_ngram(tokens: Int[jax.Array, "B L"], n: int, buckets: int) -> Int32[jax.Array, "B L"]:
    """Returns a bucket for the n-gram that ends at each position; tokens before the first count as 0."""
    length = tokens.shape[1]
    padded = jnp.pad(tokens, ((0, 0), (n - 1, 0))).astype(jnp.uint32)
    value = jnp.zeros(tokens.shape, jnp.uint32)
    for offset in range(n):
        # FNV-1a over token ids. The final shift is needed since its low bits mix poorly.
        value = (value ^ padded[:, offset : offset + length]) * jnp.uint32(16_777_619) + jnp.uint32(n)
    return ((value ^ (value >> 15)) % jnp.uint32(buckets)).astype(jnp.int32)
