"""The interface of fusions."""

import flax.linen as nn

from mmjax.batch import Encoded


class Fusion(nn.Module):
    """Lets streams read each other: {stream: Encoded} -> {stream: Encoded}.

    streams: the streams that it reads. All of them must be encoded; a missing one has a mask of False.
    """

    streams: tuple[str, ...]

    def made_streams(self) -> tuple[str, ...]:
        """The names of streams that the fusion adds to those of the encoders."""
        return ()

    def is_causal_for(self, stream: str) -> bool:
        """Whether position t of `stream` depends on no later position of it."""
        return False

    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        """Returns the fused streams, those that it adds included."""
        raise NotImplementedError
