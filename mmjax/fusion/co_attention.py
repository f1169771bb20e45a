"""Cross-attention between streams."""

import flax.linen as nn

from mmjax.batch import Encoded
from mmjax.fusion import ops
from mmjax.fusion.base import Fusion
from mmjax.layers import Block, LayerNorm
from mmjax.ranges import Decay, Depth, Dtype, Size


class CoAttention(Fusion):
    """Two-stream co-attention (Lu et al. 2019, ViLBERT, section 2.1) for any number of streams.

    In each layer, every updated stream attends to the concatenation of all other streams, then to itself,
    then passes through an MLP. All streams read the states of the layer below. The context begins with a
    learned null token per stream: rows whose other modalities are all missing attend to it alone. Streams of
    another width are first projected to `width`.

    updated_streams: the streams that attend to the others; the others keep their encodings. None: all. With
      ("text",) this is the text-side cross-attention of ALBEF and BLIP.
    causal_streams: streams whose self-attention is causal, as in a sequence-to-sequence decoder (Vaswani et
      al. 2017, section 3.1) or a captioner (Yu et al. 2022, CoCa).
    """

    depth: Depth
    width: Size
    num_heads: Size
    mlp_width: Size
    updated_streams: tuple[str, ...] | None = None
    causal_streams: tuple[str, ...] = ()
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    def is_causal_for(self, stream: str) -> bool:
        if stream not in self.streams:
            return True
        updated = self.streams if self.updated_streams is None else self.updated_streams
        # Another stream that reads this one in one layer passes its later positions back in the next.
        leaks_back = self.depth > 1 and any(other != stream for other in updated)
        return not leaks_back and (stream not in updated or stream in self.causal_streams)

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        updated = self.streams if self.updated_streams is None else self.updated_streams
        streams = ops.select_streams(
            self, encoded, updated_streams=updated, causal_streams=self.causal_streams
        )
        streams = ops.add_modality_embedding(self, streams, self.width, self.dtype)
        for layer in range(self.depth):
            streams |= {
                stream: self.read_others(f"{stream}_{layer}", stream, streams, train) for stream in updated
            }
        fused = {
            stream: streams[stream].replace(
                embeddings=LayerNorm(dtype=self.dtype, name=f"{stream}_norm")(streams[stream].embeddings)
            )
            for stream in updated
        }
        return encoded | fused

    def read_others(self, name: str, stream: str, streams: dict[str, Encoded], train: bool) -> Encoded:
        """One layer of one stream: cross-attention to the other streams, self-attention and MLP."""
        value = streams[stream]
        others = [streams[other] for other in self.streams if other != stream]
        context = ops.concat_streams([ops.learned_tokens(self, f"{name}_null", 1, value), *others])
        x = ops.cross_attend(
            name, value.embeddings, context, train,
            num_heads=self.num_heads, dropout=self.dropout, dtype=self.dtype,
        )  # fmt: skip
        x = Block(
            num_heads=self.num_heads, mlp_width=self.mlp_width, causal=stream in self.causal_streams,
            dropout=self.dropout, dtype=self.dtype, name=f"{name}_block",
        )(x, value.mask, train)  # fmt: skip
        return value.replace(embeddings=x)
