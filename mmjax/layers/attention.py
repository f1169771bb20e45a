"""Multi-head self-attention and cross-attention."""

import flax.linen as nn
import jax
from jaxtyping import Bool, Float

from mmjax.layers.einsum import Einsum, stacked_projection
from mmjax.ranges import Dtype, Size
from mmjax.sharding import shard

PROJECTION_AXES = ("act_batch", "act_length", "act_heads", "act_head_width")
QUERY_AXES = ("act_batch", "act_queries", "act_attention_heads", "act_head_width")
KEY_AXES = ("act_batch", "act_keys", "act_attention_heads", "act_head_width")


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, eq. 1 and section 3.2.2), with its softmax in float32.

    A query whose keys are all masked attends to them uniformly: its output is not NaN, but must be masked.

    key_bias: whether keys have a bias too, which changes no attention weight (Whisper's have none).
    """

    num_heads: Size
    causal: bool = False
    use_bias: bool = True
    key_bias: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "B L D"],
        context: Float[jax.Array, "B M C"],
        context_mask: Bool[jax.Array, "B M"],
        attention_mask: Bool[jax.Array, "#B L M"] | None = None,
    ) -> Float[jax.Array, "B L D"]:
        """Returns the attention of x to the context.

        Args:
          x: queries.
          context: keys and values; x itself for self-attention.
          context_mask: True where a key may be attended to by every query.
          attention_mask: True where this query may attend to this key, e.g. within a prefix or a packed
            example. An axis "#B" of size 1 is broadcast over the batch.
        """
        width = x.shape[-1]
        if width % self.num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {self.num_heads}")
        heads = (self.num_heads, width // self.num_heads)

        def projection(name: str, inputs: jax.Array) -> Einsum:
            return Einsum(
                "B L D, D H K -> B L H K",
                shape=(inputs.shape[-1], *heads), axes=("embed", "heads", "head_width"),
                use_bias=self.use_bias and (self.key_bias or name != "key"), dtype=self.dtype, name=name,
            )  # fmt: skip

        if context is x:
            names = ("query", "key", "value")
            query, key, value = stacked_projection([projection(name, x) for name in names], x)
        else:
            query = projection("query", x)(x)
            key, value = stacked_projection([projection(name, context) for name in ("key", "value")], context)
        # Two constraints in a row make the compiler exchange positions for heads (an all-to-all) here. With
        # one it would gather the inputs before the projections.
        query, key, value = (shard(y, *PROJECTION_AXES) for y in (query, key, value))
        mask = context_mask[:, None, None, :]
        if attention_mask is not None:
            mask = mask & attention_mask[:, None]
        query, key, value = shard(query, *QUERY_AXES), shard(key, *KEY_AXES), shard(value, *KEY_AXES)
        attended = jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=self.causal)
        attended = shard(shard(attended, *QUERY_AXES), *PROJECTION_AXES)
        return Einsum(
            "B L H K, H K D -> B L D", shape=(*heads, width), axes=("heads", "head_width", "embed"),
            use_bias=self.use_bias, dtype=self.dtype, name="out",
        )(attended)  # fmt: skip
