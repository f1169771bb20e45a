"""Prefix language modelling."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.batch import Text
from mmjax.views.base import Chain, View


@dataclasses.dataclass(frozen=True)
class Prefix(View):
    """Marks a prefix of random length in which attention is bidirectional; later positions are causal.

    The prefix language model of Raffel et al. 2020, section 3.2.3 (Dong et al. 2019, UniLM). The length is
    uniform from 1 to the number of tokens minus 1. The encoder's trunk must not be causal itself. Under this
    view, `objectives.CausalLanguage` scores only the tokens after the prefix.
    """

    stream: str

    def changed_streams(self):
        return (self.stream,)

    def transform_batch(self, batch, key):
        text: Text = batch[self.stream]
        ordinal = jnp.cumsum(text.mask, axis=1)  # 1 at the first token
        length = jax.random.randint(key, (ordinal.shape[0], 1), 1, jnp.maximum(ordinal[:, -1:], 2))
        return batch | {self.stream: text.replace(prefix=text.mask & (ordinal <= length))}, {}


def marks_prefix(view: View, stream: str) -> bool:
    """Whether the view, or a member of a Chain, marks a prefix of `stream`."""
    if isinstance(view, Chain):
        return any(marks_prefix(member, stream) for member in view.views)
    return isinstance(view, Prefix) and view.stream == stream
