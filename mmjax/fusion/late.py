"""No fusion: streams meet only in the loss."""

import flax.linen as nn

from mmjax.batch import Encoded


class Late(nn.Module):
    """Returns every stream as it is (dual encoders, CLIP)."""

    streams: tuple[str, ...] = ()

    def made_streams(self) -> tuple[str, ...]:
        """It adds no stream."""
        return ()

    def is_causal_for(self, stream: str) -> bool:
        """It tells no position of any other."""
        return True

    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        """{stream: Encoded} -> the same."""
        return encoded
