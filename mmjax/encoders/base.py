"""The interface of encoders."""

from typing import Any

import flax.linen as nn

from mmjax.batch import Array, Encoded


class Encoder(nn.Module):
    """Turns one stream of a batch into embeddings "B L D" with a mask "B L"."""

    def token_table(self) -> Array | None:
        """The token embeddings "V D", for heads that share them; None: the encoder reads no tokens."""
        return None

    @property
    def hides_patches(self) -> bool:
        """Whether it respects `Image.visible` and `Audio.visible`. If not, a masking view would leak."""
        return False

    @property
    def is_causal(self) -> bool:
        """Whether position t depends on no later position."""
        return False

    def __call__(self, stream: Any, train: bool = False) -> Encoded:
        """Returns the encoding of one stream's value (a Text, Image, Audio ...).

        Args:
          train: whether to apply dropout and augmentation.
        """
        raise NotImplementedError
