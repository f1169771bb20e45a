"""All modalities in one sequence."""

import flax.linen as nn

from mmjax.batch import Encoded
from mmjax.fusion.base import Fusion
from mmjax.fusion.join import (
    add_modality_embedding,
    check_names,
    concat_streams,
    select_streams,
    split_streams,
)
from mmjax.layers import Transformer


class SingleStream(Fusion):
    """Joint self-attention over the positions of all streams, each with a learned vector of its modality.

    Kiela et al. 2019, MMBT; Chen et al. 2020, UNITER, section 3.1; Kim et al. 2021, ViLT, section
    3.1. Streams are mapped to the trunk's width where they must be, and keep the positions of their encoders.
    """

    trunk: Transformer

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        check_names(self, self.streams, {}, into=None)
        streams = add_modality_embedding(
            self, select_streams(self, self.streams, encoded), self.trunk.width, self.trunk.dtype
        )
        joined = concat_streams(streams.values())
        parts = split_streams(self.trunk(joined.embeddings, joined.mask, train), streams)
        return encoded | {stream: Encoded(x, streams[stream].mask) for stream, x in parts.items()}
