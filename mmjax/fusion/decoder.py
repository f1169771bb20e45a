"""A decoder that attends to the other modalities."""

import flax.linen as nn

from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.fusion import ops
from mmjax.fusion.base import Fusion
from mmjax.layers import Transformer


class CrossAttentionDecoder(Fusion):
    """The decoder of a sequence-to-sequence model (Vaswani et al. 2017, section 3.1; Whisper, BLIP, BART).

    In each block the decoded stream attends to itself, then to the other streams, which keep their encodings.
    The fusion adds no position embeddings: the encoder of the decoded stream does, with or without layers of
    its own (`TextTransformer` with the trunk `Identity`). One other stream is attended to as it is; several
    are projected to the trunk's width, each gets a learned vector, and they are concatenated.

    updated_stream: the stream that is decoded; the trunk's output replaces it.
    trunk: a Transformer with cross_attention=True; with causal=True for generation.
    """

    updated_stream: str
    trunk: Transformer

    def is_causal_for(self, stream: str) -> bool:
        return stream != self.updated_stream or self.trunk.causal

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        others = ops.select_streams(self, encoded, updated_stream=(self.updated_stream,))
        value = others.pop(self.updated_stream)
        if not self.trunk.cross_attention or not others:
            raise InputError(
                "CrossAttentionDecoder expects a trunk with cross_attention=True and another stream to read, "
                f"found cross_attention={self.trunk.cross_attention} and the streams {list(self.streams)}"
            )
        width, dtype = self.trunk.width, self.trunk.dtype
        if len(others) > 1:
            others = ops.add_modality_embedding(self, others, width, dtype)
        x = value.embeddings
        if x.shape[-1] != width:
            x = ops.project(x, width, f"{self.updated_stream}_in", dtype)
        context = ops.concat_streams(others.values())
        return encoded | {self.updated_stream: self.trunk.encode(x, value.mask, train, context=context)}
