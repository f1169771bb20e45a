"""All modalities in one sequence."""

import flax.linen as nn

from mmjax.batch import Encoded
from mmjax.fusion import ops
from mmjax.fusion.base import Fusion
from mmjax.layers import Transformer


class SingleStream(Fusion):
    """Joint self-attention over the positions of all streams, each with a learned modality embedding.

    Kiela et al. 2019, MMBT; Chen et al. 2020, UNITER, section 3.1; Kim et al. 2021, ViLT, section
    3.1. Streams of another width are projected to the trunk's. The fusion adds no position embeddings.
    """

    trunk: Transformer

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        streams = ops.select_streams(self, encoded)
        streams = ops.add_modality_embedding(self, streams, self.trunk.width, self.trunk.dtype)
        joined = ops.concat_streams(streams.values())
        parts = ops.split_streams(self.trunk(joined.embeddings, joined.mask, train), streams)
        return encoded | {stream: Encoded(x, streams[stream].mask) for stream, x in parts.items()}
