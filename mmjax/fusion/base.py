"""The interfaces of fusions."""

import dataclasses

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
        """Returns the fused streams, those that it adds included. Other streams are returned unchanged."""
        raise NotImplementedError


class SingleResultFusion(Fusion):
    """A fusion whose result, "B L width", replaces one of its streams or becomes a new stream.

    updated_stream: the stream that the result replaces; they have the same positions. None: the result is
      the stream `new_stream`.
    """

    _: dataclasses.KW_ONLY
    updated_stream: str | None = None
    new_stream: str = "fused"

    @property
    def result_stream(self) -> str:
        """The name of the stream that holds the result."""
        return self.updated_stream or self.new_stream

    def made_streams(self) -> tuple[str, ...]:
        return () if self.updated_stream else (self.new_stream,)
