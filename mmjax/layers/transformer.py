"""The Transformer trunk."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded
from mmjax.layers.attention import MultiHeadAttention
from mmjax.layers.base import Trunk
from mmjax.layers.mlp import Mlp
from mmjax.layers.norm import LayerNorm
from mmjax.ranges import Activation, Decay, Dtype, Positive, Size
from mmjax.sharding import param_axes, shard
from mmjax.sharding.annotate import LAYERS_METADATA

REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Block(nn.Module):
    """Self-attention and an MLP with residuals; pre-norm (GPT-2, ViT) or post-norm (BERT).

    layer_scale: multiply the output of attention and MLP by a learned vector, which starts at this value
      (Touvron et al. 2021, section 2); None: do not.
    cross_attention: between self-attention and MLP, attend to another sequence, as a decoder does (Vaswani et
      al. 2017, section 3.1). An example whose context is masked everywhere gets nothing from it.
    """

    num_heads: Size
    mlp_width: Size
    norm: Literal["pre", "post"] = "pre"
    activation: Activation = "gelu_tanh"
    causal: bool = False
    use_bias: bool = True
    key_bias: bool = True
    gated: bool = False
    layer_scale: Positive | None = None
    cross_attention: bool = False
    epsilon: Positive = 1e-6
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "B L D"],
        mask: Bool[jax.Array, "B L"],
        train: bool,
        attention_mask: Bool[jax.Array, "#B L L"] | None = None,
        context: Encoded | None = None,
    ) -> Float[jax.Array, "B L D"]:
        """Returns the block's output. The arguments are those of `Transformer.encode`."""

        def normalise(x, name):
            return LayerNorm(self.epsilon, self.use_bias, self.dtype, name=name)(x)

        def drop(x):
            return nn.Dropout(self.dropout, deterministic=not train)(x)

        def scale(x, name):
            if self.layer_scale is None:
                return x
            init = param_axes(nn.initializers.constant(self.layer_scale), "embed")
            return x * self.param(name, init, (x.shape[-1],)).astype(x.dtype)[None, None]

        common = {"use_bias": self.use_bias, "dtype": self.dtype}
        attend = MultiHeadAttention(
            self.num_heads, self.causal, key_bias=self.key_bias, **common, name="attention"
        )
        mlp = Mlp(self.mlp_width, self.activation, self.gated, **common, name="mlp")

        def attend_to_context(x):
            if context is None:
                raise ValueError("a trunk with cross_attention=True expects a context to attend to")
            cross = MultiHeadAttention(
                self.num_heads, key_bias=self.key_bias, **common, name="cross_attention"
            )
            attended = cross(x, context.embeddings, context.mask)
            return jnp.where(context.mask.any(1)[:, None, None], attended, 0)

        if self.norm == "pre":
            y = normalise(x, "attention_norm")
            x = x + drop(scale(attend(y, y, mask, attention_mask), "attention_scale"))
            if self.cross_attention:
                x = x + drop(attend_to_context(normalise(x, "cross_attention_norm")))
            x = x + drop(scale(mlp(normalise(x, "mlp_norm")), "mlp_scale"))
        else:
            attended = scale(attend(x, x, mask, attention_mask), "attention_scale")
            x = normalise(x + drop(attended), "attention_norm")
            if self.cross_attention:
                x = normalise(x + drop(attend_to_context(x)), "cross_attention_norm")
            x = normalise(x + drop(scale(mlp(x), "mlp_scale")), "mlp_norm")
        return shard(x, "act_batch", "act_length", "act_embed")


class Transformer(Trunk):
    """`depth` blocks, and a final norm if pre-norm.

    final_norm: False leaves the final norm out, for a trunk whose readers begin with one of their own.
    activation: a key of `mlp.ACTIVATIONS`.
    gated, key_bias, layer_scale, cross_attention: see `Mlp`, `MultiHeadAttention` and `Block`.
    dtype: the dtype of the arithmetic; parameters are float32.
    scan: compile one block for all layers, with parameters stacked along a first axis "layers".
    remat: what the backward pass recomputes to save memory. "dots" keeps matrix products, "full" keeps only
      the input of each block.
    """

    num_heads: Size
    mlp_width: Size
    norm: Literal["pre", "post"] = "pre"
    activation: Activation = "gelu_tanh"
    causal: bool = False
    use_bias: bool = True
    key_bias: bool = True
    gated: bool = False
    layer_scale: Positive | None = None
    cross_attention: bool = False
    epsilon: Positive = 1e-6
    dropout: Decay = 0.0
    scan: bool = True
    remat: Literal["none", "dots", "full"] = "none"
    dtype: Dtype = "float32"
    final_norm: bool = True

    @classmethod
    def of(cls, depth: int, width: int, *, num_heads: int | None = None, **fields: Any) -> "Transformer":
        """Returns a trunk with heads of 64 channels and an MLP of width 4 D.

        Args:
          depth: the number of blocks.
          width: D.
          num_heads: None: D / 64, at least 1.
          fields: other fields, such as `causal=True`.

        >>> Transformer.of(12, 768).num_heads, Transformer.of(12, 768).mlp_width
        (12, 3072)
        """
        heads = max(1, width // 64) if num_heads is None else num_heads
        return cls(**{"depth": depth, "width": width, "num_heads": heads, "mlp_width": 4 * width} | fields)

    @property
    def is_causal(self):
        return self.causal

    @nn.compact
    def encode(
        self,
        x: Float[jax.Array, "B L D"],
        mask: Bool[jax.Array, "B L"],
        train: bool = False,
        attention_mask: Bool[jax.Array, "#B L L"] | None = None,
        context: Encoded | None = None,
    ) -> Encoded:
        """Returns the last block's output, normalised if pre-norm, and the outputs of the blocks in `taps`.

        Args:
          mask: True where the position is valid.
          attention_mask: True where this query may attend to this key, in addition to `mask` and `causal`.
          context: what a trunk with `cross_attention` also attends to; it may have another width.
        """
        self.check_input(x)
        block = Block
        if self.remat != "none":
            # Under scan XLA cannot merge the recomputation with the forward pass, so that CSE is harmless.
            block = nn.remat(
                Block, policy=REMAT_POLICIES[self.remat], prevent_cse=not self.scan, static_argnums=(3,)
            )
        options: dict[str, Any] = dict(
            num_heads=self.num_heads, mlp_width=self.mlp_width, norm=self.norm, activation=self.activation,
            causal=self.causal, use_bias=self.use_bias, key_bias=self.key_bias, gated=self.gated,
            layer_scale=self.layer_scale, cross_attention=self.cross_attention, epsilon=self.epsilon,
            dropout=self.dropout, dtype=self.dtype,
        )  # fmt: skip
        x = shard(x.astype(self.dtype), "act_batch", "act_length", "act_embed")
        outputs: Any = []  # of all blocks: a list, or stacked along a first axis
        if self.scan:

            def layer(module, carry, _):
                carry = module(carry, mask, train, attention_mask, context)
                return carry, carry if self.taps else None

            layers = nn.scan(
                layer, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True},
                length=self.depth, metadata_params=LAYERS_METADATA,
            )  # fmt: skip
            x, outputs = layers(block(**options, name="layers"), x, None)
        else:
            for i in range(self.depth):
                x = block(**options, name=f"layer_{i}")(x, mask, train, attention_mask, context)
                outputs.append(x)
        hidden_states = tuple(outputs[tap - 1] for tap in self.taps)
        if self.norm == "pre" and self.final_norm:
            x = LayerNorm(self.epsilon, self.use_bias, self.dtype, name="final_norm")(x)
        return Encoded(x, mask, hidden_states)
