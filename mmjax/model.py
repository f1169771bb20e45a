"""The model: encoders -> fusion -> heads."""

from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax

from mmjax.batch import Array, Audio, Encoded, Image, Stream
from mmjax.encoders import Encoder
from mmjax.fusion import Fusion
from mmjax.heads import Head


class MultimodalModel(nn.Module):
    """Encoders of streams, a fusion of their encodings, and heads that predict from either.

    encoders: {stream: encoder}.
    fusion: how streams are fused. It may add streams of its own, its `made_streams`.
    heads: {name: head}. Each reads one stream, after its encoder or after the fusion.
    shared: {stream: key in `encoders`}, for streams without an encoder of their own, such as
      {"keywords": "text"}. The weights are shared.
    """

    encoders: Mapping[str, Encoder]
    fusion: Fusion
    heads: Mapping[str, Head]
    shared: Mapping[str, str] | None = None

    def encoder_name(self, stream: str) -> str:
        """The key in `encoders` of the encoder that reads `stream`."""
        return (self.shared or {}).get(stream, stream)

    def encode(self, stream: str, value: Stream, train: bool = False) -> Encoded:
        """Encodes one stream."""
        encoder = self.encoders[self.encoder_name(stream)]
        if isinstance(value, Image | Audio) and value.visible is not None and not encoder.hides_patches:
            raise ValueError(
                f"a view masks patches of the stream {stream!r}, but its encoder {type(encoder).__name__} "
                "reads all of them: use an encoder with hides_patches, such as ViT or SpectrogramTransformer"
            )
        with jax.named_scope(f"encode_{stream}"):
            return encoder(value, train)

    def token_table(self, stream: str) -> Array | None:
        """The token embeddings "V D" of the encoder that reads `stream`; None: it has none."""
        encoder = self.encoders.get(self.encoder_name(stream))
        return None if encoder is None else encoder.token_table()

    def predict(
        self, encoded: dict[str, Encoded], heads: Iterable[str], train: bool = False
    ) -> dict[str, Array]:
        """Returns {head: prediction "B ..."}. The fusion runs only if one of `heads` reads its output."""
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
            is_fused = head.after == "fusion"
            needed |= dict.fromkeys(self.fusion.streams if is_fused else ())
            needed |= {} if is_fused and head.stream in self.fusion.made_streams() else {head.stream: None}
        return tuple(needed)

    def head_names(self) -> tuple[str, ...]:
        """The names of the heads, sorted."""
        return tuple(sorted(self.heads))
