"""An encoding of few positions: learned queries that attend to another encoder's."""

import flax.linen as nn
import jax.numpy as jnp

from mmjax.batch import Encoded, Stream, is_present
from mmjax.encoders.base import Encoder
from mmjax.layers import LayerNorm, MultiHeadAttention
from mmjax.ranges import Dtype, Positive, Size
from mmjax.sharding import param_axes, shard


class PooledByQueries(Encoder):
    """Learned queries attend to what an encoder gives (CoCa's pooling, Yu et al. 2022, section 3.2).

    `norm(Attention(norm(queries), encoding))`. The first query is for contrast, the others for a decoder.

    encoder: of the stream. Its trunk ends with a norm.
    width, num_queries, num_heads: of the result, "B num_queries width".
    """

    encoder: Encoder
    width: Size
    num_queries: Size
    num_heads: Size
    epsilon: Positive = 1e-6
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, stream: Stream, train: bool = False) -> Encoded:
        encoded = self.encoder(stream, train)
        init = param_axes(nn.initializers.normal(1.0), None, "embed")
        queries = jnp.asarray(self.param("queries", init, (self.num_queries, self.width)), self.dtype)
        queries = LayerNorm(self.epsilon, dtype=self.dtype, name="query_norm")(queries)
        queries = jnp.broadcast_to(queries, (encoded.mask.shape[0], *queries.shape))
        x = MultiHeadAttention(self.num_heads, dtype=self.dtype, name="attention")(
            queries, encoded.embeddings.astype(self.dtype), encoded.mask
        )
        x = LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)
        mask = jnp.broadcast_to(is_present(encoded)[:, None], x.shape[:2])
        return Encoded(shard(x, "act_batch", "act_length", "act_embed"), mask)
