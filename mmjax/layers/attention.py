"""Multi-head attention, to itself or to another stream."""

import flax.linen as nn
import jax
from jaxtyping import Bool, Float

from mmjax.layers.einsum import Einsum, stacked_projection
from mmjax.sharding import shard

BESIDE_ATTENTION = ("act_batch", "act_length", "act_heads", "act_head_width")


class MultiHeadAttention(nn.Module):
    """Vaswani et al. 2017, eq. 1 and section 3.2.2; the softmax is in float32.

    A query whose keys are all masked attends evenly to them: its reader must mask it; it is never NaN.
    """

    num_heads: int
    causal: bool = False
    use_bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "B L D"],
        context: Float[jax.Array, "B M C"],
        context_mask: Bool[jax.Array, "B M"],
        allowed: Bool[jax.Array, "#B L M"] | None = None,
    ) -> Float[jax.Array, "B L D"]:
        """x attends to context, which may be x itself, where context_mask is True.

        allowed: which query may attend to which key, where that is not the same for all (a prefix that all
        may see, examples packed into one row); a first axis of 1 serves every example.
        """
        width = x.shape[-1]
        if width % self.num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {self.num_heads}")
        heads = (self.num_heads, width // self.num_heads)

        def projection(name: str, inputs: jax.Array) -> Einsum:
            return Einsum(
                "B L D, D H K -> B L H K",
                shape=(inputs.shape[-1], *heads), axes=("embed", "heads", "head_width"),
                use_bias=self.use_bias, dtype=self.dtype, name=name,
            )  # fmt: skip

        if context is x:
            query, key, value = stacked_projection(
                [projection(name, x) for name in ("query", "key", "value")], x
            )
        else:
            query = projection("query", x)(x)
            key, value = stacked_projection([projection(name, context) for name in ("key", "value")], context)
        # Named twice: positions are exchanged for heads here, rather than inputs gathered before products.
        query, key, value = (shard(y, *BESIDE_ATTENTION) for y in (query, key, value))
        mask = context_mask[:, None, None, :]
        if allowed is not None:
            mask = mask & allowed[:, None]
        attended = jax.nn.dot_product_attention(
            shard(query, "act_batch", "act_queries", "act_attention_heads", "act_head_width"),
            shard(key, "act_batch", "act_keys", "act_attention_heads", "act_head_width"),
            shard(value, "act_batch", "act_keys", "act_attention_heads", "act_head_width"),
            mask=mask,
            is_causal=self.causal,
        )
        attended = shard(attended, "act_batch", "act_queries", "act_attention_heads", "act_head_width")
        attended = shard(attended, *BESIDE_ATTENTION)
        return Einsum(
            "B L H K, H K D -> B L D", shape=(*heads, width), axes=("heads", "head_width", "embed"),
            use_bias=self.use_bias, dtype=self.dtype, name="out",
        )(attended)  # fmt: skip
