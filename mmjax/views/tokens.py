"""Words hidden."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mmjax.batch import Text
from mmjax.data.vocabulary import MASK_ID, SPECIAL_TOKENS
from mmjax.views.base import View


@dataclasses.dataclass(frozen=True)
class MaskTokens(View):
    """Some tokens hidden: 80 % as [MASK], 10 % as a random token, 10 % as they are (Devlin et al. 2019).

    unit: each "token" is drawn by itself, a "word" with all its tokens (whole-word masking), or "all" words
    are. In every text at least one unit is hidden, so short texts train too; special tokens never are.
    Targets: tokens int32 ``"B L"`` (the original), masked bool ``"B L"``.
    """

    stream: str
    vocab: int
    rate: float = 0.15
    unit: Literal["token", "word", "all"] = "word"
    mask_id: int = MASK_ID
    num_special: int = len(SPECIAL_TOKENS)  # ids below are special and are never drawn as a random token
    mask_share: float = 0.8
    random_share: float = 0.1

    def changed_streams(self):
        return (self.stream,)

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
        how = jax.random.uniform(replace_key, text.tokens.shape)
        random_tokens = jax.random.randint(token_key, text.tokens.shape, self.num_special, self.vocab)
        hidden = corrupt(text, masked, how, random_tokens, self)
        return batch | {self.stream: hidden}, {"tokens": text.tokens, "masked": masked}


def corrupt(text: Text, masked: jax.Array, how: jax.Array, random_tokens: jax.Array, view: Any) -> Text:
    """The text with [MASK], random tokens or its own where `masked`, as the draw `how` in [0, 1) falls."""
    hidden = jnp.where(how < view.mask_share, view.mask_id, text.tokens)
    hidden = jnp.where(how >= 1 - view.random_share, random_tokens, hidden)
    return text.replace(tokens=jnp.where(masked, hidden, text.tokens))
