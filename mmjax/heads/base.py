"""The interface of heads."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn

from mmjax.batch import Array, Encoded


class Head(nn.Module):
    """Turns one stream's encoding into a prediction.

    stream: the stream that it reads. after: whether it reads the encoder's output or the fusion's.
    """

    stream: str
    _: dataclasses.KW_ONLY
    after: Literal["encoder", "fusion"] = "encoder"

    def __call__(self, encoded: Encoded, table: Array | None = None) -> Any:
        """Returns the prediction: an array "B ...", or a dataclass of such arrays.

        Args:
          encoded: embeddings "B L D" and their mask.
          table: the token embeddings "V D" of the stream's encoder, or None where it has none.
        """
        raise NotImplementedError
