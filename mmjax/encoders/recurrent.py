"""An encoder of text by an LSTM or GRU."""

from mmjax.batch import Encoded, Text
from mmjax.encoders.text import TextEncoder
from mmjax.layers import Recurrent


class RecurrentText(TextEncoder):
    """Token and sentence-type embeddings, then an LSTM or GRU, which needs no position embeddings."""

    trunk: Recurrent

    def __call__(self, text: Text, train: bool = False) -> Encoded:
        return self.trunk.encode(self.embed(text.tokens, text.token_types), text.mask, train)
