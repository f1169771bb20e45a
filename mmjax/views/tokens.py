"""Masked tokens, as in BERT."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32

from mmjax.batch import Batch, Text
from mmjax.data.vocabulary import MASK_ID, SPECIAL_TOKENS
from mmjax.ranges import Fraction, PositiveFraction, Vocab, Whole
from mmjax.views.base import Targets, View


@dataclasses.dataclass(frozen=True)
class MaskText(View):
    """The base of views that mask tokens of one text, for `objectives.MaskedLanguage`.

    stream: a Text stream. vocab: its vocabulary size. rate: the fraction of tokens to mask.
    mask_id: the id of [MASK]. num_special: smaller ids are special tokens, never sampled as random tokens.
    mask_token_probability, random_token_probability: that a masked token is replaced by [MASK], or by a
      random token; otherwise it stays unchanged. The defaults are those of Devlin et al. 2019.

    Targets: tokens int32 "B L", the original ids; masked bool "B L".
    """

    stream: str
    vocab: Vocab
    rate: PositiveFraction = 0.15
    _: dataclasses.KW_ONLY
    mask_id: Whole = MASK_ID
    num_special: Whole = len(SPECIAL_TOKENS)
    mask_token_probability: Fraction = 0.8
    random_token_probability: Fraction = 0.1

    def changed_streams(self):
        return (self.stream,)

    def check_vocabularies(self, vocabularies):
        vocabulary = vocabularies.get(self.stream)
        if vocabulary is None:
            return None
        for field, found, expected in (
            ("vocab", self.vocab, vocabulary.size),
            ("mask_id", self.mask_id, vocabulary.mask_id),
        ):
            if found != expected:
                return (
                    f"{type(self).__name__} of the stream {self.stream!r} expects {field}={expected}, which "
                    f"its tokenizer has, found {found}: put {field}={expected}"
                )
        return None

    def corrupt(
        self, batch: Batch, masked: Bool[jax.Array, "B L"], draw: Float32[jax.Array, "B L"], key: jax.Array
    ) -> tuple[Batch, Targets]:
        """Replaces masked tokens as `draw`, uniform in [0, 1), selects; returns batch and targets "B L"."""
        text: Text = batch[self.stream]
        random_tokens = jax.random.randint(key, text.tokens.shape, self.num_special, self.vocab)
        tokens = jnp.where(draw < self.mask_token_probability, self.mask_id, text.tokens)
        tokens = jnp.where(draw >= 1 - self.random_token_probability, random_tokens, tokens)
        corrupted = text.replace(tokens=jnp.where(masked, tokens, text.tokens))
        return batch | {self.stream: corrupted}, {"tokens": text.tokens, "masked": masked}


@dataclasses.dataclass(frozen=True)
class MaskTokens(MaskText):
    """Masks a random fraction of the tokens (Devlin et al. 2019): 80 % [MASK], 10 % random, 10 % unchanged.

    unit: "token" samples tokens one by one, "word" samples words and masks all their tokens (whole-word
    masking), "all" masks every word. At least one unit per text is masked, so that short texts train too;
    special tokens never are. Other fields and targets: see `MaskText`.
    """

    unit: Literal["token", "word", "all"] = "word"

    def transform_batch(self, batch, key):
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
        return self.corrupt(batch, masked, jax.random.uniform(replace_key, text.tokens.shape), token_key)
