"""The multimodal text decoder of CoCa."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded, is_present
from mmjax.errors import InputError
from mmjax.fusion import ops
from mmjax.fusion.base import Fusion
from mmjax.layers import Block, LayerNorm, Mlp, MultiHeadAttention
from mmjax.ranges import Activation, Decay, Depth, Dtype, Positive, Size
from mmjax.sharding import shard


class CoCaLayer(nn.Module):
    """A causal block, then cross-attention to another stream, and an MLP; all with residuals, pre-norm."""

    num_heads: Size
    mlp_width: Size
    activation: Activation = "gelu_tanh"
    epsilon: Positive = 1e-6
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"], context: Encoded, train: bool
    ) -> Float[jax.Array, "B L D"]:
        """Returns the layer's output. An example whose context is masked everywhere gets nothing from it."""

        def normalise(x, name):
            return LayerNorm(self.epsilon, dtype=self.dtype, name=name)(x)

        def drop(x):
            return nn.Dropout(self.dropout, deterministic=not train)(x)

        x = Block(
            num_heads=self.num_heads, mlp_width=self.mlp_width, activation=self.activation, causal=True,
            epsilon=self.epsilon, dropout=self.dropout, dtype=self.dtype, name="block",
        )(x, mask, train)  # fmt: skip
        attended = MultiHeadAttention(self.num_heads, dtype=self.dtype, name="cross_attention")(
            normalise(x, "query_norm"), normalise(context.embeddings, "context_norm"), context.mask
        )
        x = x + drop(jnp.where(is_present(context)[:, None, None], attended, 0))
        mlp = Mlp(self.mlp_width, self.activation, dtype=self.dtype, name="mlp")
        x = x + drop(mlp(normalise(x, "mlp_norm")))
        return shard(x, "act_batch", "act_length", "act_embed")


class CoCaDecoder(Fusion):
    """The half of CoCa's text decoder that reads the image (Yu et al. 2022, section 3.2), as OpenCLIP has it.

    Its two streams are a text, whose encoder is causal and appends a class token (`TextTransformer` with
    class_token=True), and another one, whose first position is for contrast (`PooledByQueries`). The decoder
    leaves out both of these positions, so that its result has those of the text.

    updated_stream: the text, which the result replaces.
    """

    updated_stream: str
    depth: Depth
    num_heads: Size
    mlp_width: Size
    activation: Activation = "gelu_tanh"
    epsilon: Positive = 1e-6
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    def is_causal_for(self, stream: str) -> bool:
        return True

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        streams = ops.select_streams(self, encoded, updated_stream=(self.updated_stream,))
        if len(streams) != 2:
            raise InputError(f"CoCaDecoder expects two streams, found {list(streams)}")
        text = streams.pop(self.updated_stream)
        (other,) = streams.values()
        x, mask = text.embeddings[:, :-1].astype(self.dtype), text.mask[:, :-1]
        context = Encoded(other.embeddings[:, 1:].astype(self.dtype), other.mask[:, 1:])
        for i in range(self.depth):
            layer = CoCaLayer(
                num_heads=self.num_heads, mlp_width=self.mlp_width, activation=self.activation,
                epsilon=self.epsilon, dropout=self.dropout, dtype=self.dtype, name=f"layer_{i}",
            )  # fmt: skip
            x = layer(x, mask, context, train)
        x = LayerNorm(self.epsilon, dtype=self.dtype, name="final_norm")(x)
        return encoded | {self.updated_stream: Encoded(x, mask)}
