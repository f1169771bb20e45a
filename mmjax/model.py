"""The model on one page: encoders -> fusion -> heads."""

from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax

from mmjax.batch import Array, Audio, Encoded, Image, Stream
from mmjax.encoders import Encoder


class MultimodalModel(nn.Module):
    """A tower for each stream, a fusion that lets streams read each other, and heads that predict.

    encoders: {stream: module (stream value, train) -> Encoded}.
    fusion: {stream: Encoded} -> {stream: Encoded}, over `fusion.streams`; it may make streams of its own,
      which `fusion.made_streams()` names.
    heads: {name: module}; each names its `stream` and reads it `after` its "encoder" or after "fusion".
    shared: {stream: other stream}, for streams read by another stream's encoder with the same weights,
      e.g. {"keywords": "text"}.
    """

    encoders: Mapping[str, Encoder]
    fusion: nn.Module
    heads: Mapping[str, nn.Module]
    shared: Mapping[str, str] | None = None

    def encoder_name(self, stream: str) -> str:
        """The key in `encoders` of the tower that reads `stream`."""
        return (self.shared or {}).get(stream, stream)

    def encode(self, stream: str, value: Stream, train: bool = False) -> Encoded:
        """One stream through its tower."""
        encoder = self.encoders[self.encoder_name(stream)]
        if isinstance(value, Image | Audio) and value.visible is not None and not encoder.hides_patches:
            raise ValueError(
                f"a view hides patches of the stream {stream!r}, but its encoder {type(encoder).__name__} "
                "reads all of them: use an encoder with hides_patches, such as ViT or SpectrogramTransformer"
            )
        with jax.named_scope(f"encode_{stream}"):
            return encoder(value, train)

    def token_table(self, stream: str) -> jax.Array | None:
        """The token table of the tower that reads `stream`, where it has one."""
        encoder = self.encoders.get(self.encoder_name(stream))
        return None if encoder is None else encoder.token_table()

    def predict(
        self, encoded: dict[str, Encoded], heads: Iterable[str], train: bool = False
    ) -> dict[str, Array]:
        """Encodings -> {head: prediction}. Fusion runs only if one of `heads` reads what it makes."""
        heads = tuple(heads)
        fused: dict[str, Encoded] = {}
        if any(self.heads[name].after == "fusion" for name in heads):
            with jax.named_scope("fusion"):
                fused = self.fusion(encoded, train)
        predictions = {}
        for name in heads:
            head = self.heads[name]
            source = fused if head.after == "fusion" else encoded
            with jax.named_scope(f"head_{name}"):
                predictions[name] = head(source[head.stream], self.token_table(head.stream))
        return predictions

    def streams_for(self, heads: Iterable[str]) -> tuple[str, ...]:
        """The streams that must be encoded before `heads` can predict, in a fixed order."""
        needed: dict[str, None] = {}
        for name in heads:
            head = self.heads[name]
            fused = head.after == "fusion"
            needed |= dict.fromkeys(self.fusion.streams if fused else ())
            needed |= {} if fused and head.stream in self.fusion.made_streams() else {head.stream: None}
        return tuple(needed)

    def head_names(self) -> tuple[str, ...]:
        """The names of the heads, sorted."""
        return tuple(sorted(self.heads))
