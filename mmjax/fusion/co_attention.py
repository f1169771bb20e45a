"""Streams that read each other by cross-attention."""

import flax.linen as nn

from mmjax.batch import Encoded
from mmjax.fusion.base import Fusion
from mmjax.fusion.join import (
    add_modality_embedding,
    check_names,
    concat_streams,
    cross_attend,
    learned_tokens,
    select_streams,
)
from mmjax.layers import Block, LayerNorm


class CoAttention(Fusion):
    """Two-stream co-attention (Lu et al. 2019, ViLBERT, section 2.1) for any number of streams.

    In each of `depth` layers, every stream in `updated` (default: all) attends to all the other streams laid
    end to end, then to itself, then goes through its MLP; all read the state of the layer below. The context
    is led by one learned null token a stream, so that a row whose other modalities are all missing attends to
    something that is the same for every row. With `updated=("text",)` this is the text-side cross-attention
    of ALBEF and BLIP.

    Streams may differ in width: each is mapped to `width` first where it must be. A position of a stream in
    `causal` attends to no later one of its own: the decoder of a sequence-to-sequence model (Vaswani et al.
    2017, section 3.1), or of captions (Yu et al. 2022, CoCa).
    """

    depth: int
    width: int
    num_heads: int
    mlp_width: int
    updated: tuple[str, ...] | None = None
    causal: tuple[str, ...] = ()
    dropout: float = 0.0
    dtype: str = "float32"

    def is_causal_for(self, stream: str) -> bool:
        if stream not in self.streams:
            return True
        updated = self.streams if self.updated is None else self.updated
        # What another stream has read of this one in one layer, this one could read back in the next.
        told = self.depth > 1 and any(other != stream for other in updated)
        return not told and (stream not in updated or stream in self.causal)

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        updated = self.streams if self.updated is None else self.updated
        check_names(self, self.streams, {"updated": updated, "causal": self.causal}, into=None)
        joined = add_modality_embedding(
            self, select_streams(self, self.streams, encoded), self.width, self.dtype
        )
        for layer in range(self.depth):
            joined |= {
                stream: self.read_others(f"{stream}_{layer}", stream, joined, train) for stream in updated
            }
        fused = {
            stream: joined[stream].replace(
                embeddings=LayerNorm(dtype=self.dtype, name=f"{stream}_norm")(joined[stream].embeddings)
            )
            for stream in updated
        }
        return encoded | fused

    def read_others(self, name: str, stream: str, joined: dict[str, Encoded], train: bool) -> Encoded:
        """One layer of one stream."""
        own = joined[stream]
        others = [joined[other] for other in self.streams if other != stream]
        context = concat_streams([learned_tokens(self, f"{name}_null", 1, own), *others])
        x = cross_attend(
            name, own.embeddings, context, train,
            num_heads=self.num_heads, dropout=self.dropout, dtype=self.dtype,
        )  # fmt: skip
        x = Block(
            num_heads=self.num_heads, mlp_width=self.mlp_width, causal=stream in self.causal,
            dropout=self.dropout, dtype=self.dtype, name=f"{name}_block",
        )(x, own.mask, train)  # fmt: skip
        return own.replace(embeddings=x)
