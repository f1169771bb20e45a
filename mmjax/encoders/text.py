"""Encoders of text by a Transformer."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Int32

from mmjax.batch import Encoded, Text
from mmjax.encoders.base import Encoder
from mmjax.layers import Identity, LayerNorm, LearnedPositions, Transformer, Trunk
from mmjax.ranges import Count, NonNegative, Size, SizeOrZero, Vocab
from mmjax.sharding import gather_table, param_axes


class TextEncoder(Encoder):
    """The common part of text encoders: token and sentence-type embeddings, which a trunk reads.

    The token table is initialised with standard deviation D^-1/2, and its rows are multiplied by D^1/2 when
    they are read (Vaswani et al. 2017, section 3.4). Inputs, and the logits of a head that shares the table,
    then have unit scale.

    vocab: the number of tokens.
    num_token_types: the number of sentence types; 0: the model does not tell sentences apart.
    scale_embeddings: multiply the rows by D^1/2. Without, they start with standard deviation 0.02 (BERT).
    """

    vocab: Vocab
    trunk: Trunk
    _: dataclasses.KW_ONLY
    num_token_types: SizeOrZero = 2
    scale_embeddings: bool = True

    def setup(self):
        width = self.trunk.width
        std = width**-0.5 if self.scale_embeddings else 0.02
        init = param_axes(nn.initializers.normal(std), "vocab", "embed")
        self.table = self.param("table", init, (self.vocab, width))
        if self.num_token_types:
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
        x = jnp.take(gather_table(self.table), tokens, axis=0)
        if self.scale_embeddings:
            x = x * self.trunk.width**0.5
        return x + jnp.take(self.types, token_types, axis=0) if self.num_token_types else x


class TextTransformer(TextEncoder):
    """Token, sentence-type and position embeddings, then a Transformer.

    A text with a `prefix` has bidirectional attention within the prefix and causal attention after it (Raffel
    et al. 2020, section 3.2.3). Its trunk must have causal=False.

    trunk: `Identity` where the layers are in the fusion, such as a decoder with cross-attention.
    max_length: the largest number of positions.
    hash_ngrams: lengths of n-grams, e.g. (2, 3). Every position also gets a learned vector for each n-gram
      that ends there, found by hashing (Pagnoni et al. 2024, Byte Latent Transformer, section 3.2.1). A small
      vocabulary then still distinguishes whole words. A masked token is hashed as the mask token.
    hash_buckets: the number of vectors for each n-gram length.
    first_position: the row of the first position in the table of positions.
    embedding_norm: normalise the sum of the embeddings before the trunk (BERT).
    class_token: append a learned token, whose position is one more than the text's and which reads all of it
      (CoCa, Yu et al. 2022, section 3.2). As in OpenCLIP's weights, padded texts let it attend to one padded
      position, and not to itself. Heads and fusions of positions must leave it out.
    reads_padding: attend to the tokens at padded positions as to all others (SigLIP, whose texts are padded
      to one length); only an example without any text stays masked.
    """

    trunk: Transformer | Identity
    max_length: Size = 512
    hash_ngrams: tuple[Count, ...] = ()
    hash_buckets: Vocab = 4096
    position_init_std: NonNegative = 1.0
    first_position: SizeOrZero = 0
    embedding_norm: bool = False
    reads_padding: bool = False
    class_token: bool = False

    def setup(self):
        super().setup()
        if self.hash_ngrams:
            # Small, so that n-grams that were not trained on add little.
            init = param_axes(nn.initializers.normal(0.02), "vocab", "embed")
            num_rows = len(self.hash_ngrams) * self.hash_buckets
            self.ngrams = gather_table(self.param("ngrams", init, (num_rows, self.trunk.width)))
        self.positions = LearnedPositions(
            self.max_length + self.first_position, self.position_init_std, self.first_position
        )
        if self.embedding_norm:
            self.norm = LayerNorm(self.trunk.epsilon)
        if self.class_token:
            init = param_axes(nn.initializers.normal(0.01), "embed")
            self.class_embedding = self.param("class_embedding", init, (self.trunk.width,))

    def __call__(self, text: Text, train: bool = False) -> Encoded:
        mask = text.mask
        if self.reads_padding:
            mask = jnp.broadcast_to(mask.any(1, keepdims=True), mask.shape)
        # Padding between two sentences is zeroed, since an n-gram may span it.
        tokens = jnp.where(mask, text.tokens, 0)
        token_types = text.token_types
        if self.class_token:  # it attends to a padded position too
            token_types = jnp.where(mask, token_types, 0)
        x = self.embed(tokens, token_types)
        for i, n in enumerate(self.hash_ngrams):
            bucket = hash_ngram(tokens, n, self.hash_buckets) + i * self.hash_buckets
            x = x + jnp.take(self.ngrams, bucket, axis=0) * self.trunk.width**0.5
        attention_mask = None
        if text.prefix is not None:
            if isinstance(self.trunk, Transformer) and self.trunk.causal:
                raise ValueError("a text with a prefix needs a trunk with causal=False, found causal=True")
            if self.class_token:
                raise ValueError("a text with a prefix needs an encoder with class_token=False, found True")
            attention_mask = prefix_lm_mask(text.prefix)
        keys = mask
        if self.class_token:
            has_text = mask.any(1, keepdims=True)
            last = jnp.broadcast_to(self.class_embedding.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
            x = jnp.concatenate([x, last], 1)
            keys, mask = jnp.concatenate([has_text, mask], 1), jnp.concatenate([mask, has_text], 1)
        x = self.positions(x)
        if self.embedding_norm:
            x = self.norm(x)
        return self.trunk.encode(x, keys, train, attention_mask).replace(mask=mask)


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
