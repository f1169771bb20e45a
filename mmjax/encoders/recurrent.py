"""Text read one token after the other."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.batch import Encoded, Text
from mmjax.encoders.base import Encoder
from mmjax.layers import Recurrent
from mmjax.sharding import gather_table, param_axes


class RecurrentText(Encoder):
    """Token and sentence-type embeddings, then LSTMs or GRUs; the order of reading needs no positions.

    The table is TextTransformer's: its rows start at standard deviation width^-1/2 and are scaled by
    width^1/2 when read. Bidirectional unless the trunk says otherwise; one direction alone is causal.
    """

    vocab: int
    trunk: Recurrent
    num_token_types: int = 2

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
        return not self.trunk.bidirectional

    def __call__(self, text: Text, train: bool = False) -> Encoded:
        """Text ``"B L"`` -> Encoded ``"B L D"``."""
        x = jnp.take(gather_table(self.table), text.tokens, axis=0) * self.trunk.width**0.5
        return self.trunk.encode(x + jnp.take(self.types, text.token_types, axis=0), text.mask, train)
