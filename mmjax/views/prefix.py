"""The beginning of a text given, the rest to be said."""

import dataclasses

import jax
import jax.numpy as jnp

from mmjax.batch import Text
from mmjax.views.base import Chain, View


@dataclasses.dataclass(frozen=True)
class Prefix(View):
    """A prefix of random length, which every position may see; what follows is read causally.

    The prefix language model of Raffel et al. 2020, section 3.2.3 (Dong et al. 2019, UniLM). The length is
    uniform: at least the first token is given, and at least the last one is not. The tower's trunk must not
    be causal by itself. `objectives.CausalLanguage` at this view counts only what comes after the prefix.
    """

    stream: str

    def changed_streams(self):
        return (self.stream,)

    def transform_batch(self, batch, key):
        text: Text = batch[self.stream]
        number = jnp.cumsum(text.mask, axis=1)  # of each token, from 1
        length = jax.random.randint(key, (number.shape[0], 1), 1, jnp.maximum(number[:, -1:], 2))
        return batch | {self.stream: text.replace(prefix=text.mask & (number <= length))}, {}


def gives_prefix(view: View, stream: str) -> bool:
    """Whether the view, or one of a chain, marks a prefix of `stream`."""
    if isinstance(view, Chain):
        return any(gives_prefix(each, stream) for each in view.views)
    return isinstance(view, Prefix) and view.stream == stream
