"""The one trunk under every encoder."""

from typing import Any, Literal

import flax.linen as nn
import jax
from jaxtyping import Bool, Float

from mmjax.batch import Encoded
from mmjax.layers.attention import MultiHeadAttention
from mmjax.layers.mlp import Mlp
from mmjax.layers.norm import LayerNorm
from mmjax.sharding import shard
from mmjax.sharding.annotate import LAYERS_METADATA

REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Block(nn.Module):
    """Attention and MLP with residuals; pre-norm (GPT-2, ViT) or post-norm (BERT)."""

    num_heads: int
    mlp_width: int
    norm: Literal["pre", "post"] = "pre"
    activation: str = "gelu_tanh"
    causal: bool = False
    use_bias: bool = True
    epsilon: float = 1e-6
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "B L D"],
        mask: Bool[jax.Array, "B L"],
        train: bool,
        allowed: Bool[jax.Array, "#B L L"] | None = None,
    ) -> Float[jax.Array, "B L D"]:
        """mask: which positions are there; allowed: which may attend to which, as MultiHeadAttention's."""

        def normalise(x, name):
            return LayerNorm(epsilon=self.epsilon, use_bias=self.use_bias, dtype=self.dtype, name=name)(x)

        def drop(x):
            return nn.Dropout(self.dropout, deterministic=not train)(x)

        attention = MultiHeadAttention(
            num_heads=self.num_heads,
            causal=self.causal,
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="attention",
        )
        mlp = Mlp(
            mlp_width=self.mlp_width,
            activation=self.activation,
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="mlp",
        )
        if self.norm == "pre":
            y = normalise(x, "attention_norm")
            x = x + drop(attention(y, y, mask, allowed))
            x = x + drop(mlp(normalise(x, "mlp_norm")))
        else:
            x = normalise(x + drop(attention(x, x, mask, allowed)), "attention_norm")
            x = normalise(x + drop(mlp(x)), "mlp_norm")
        return shard(x, "act_batch", "act_length", "act_embed")


class Transformer(nn.Module):
    """`depth` blocks; a final norm if pre-norm.

    `scan` compiles one block whatever the depth, and stacks parameters along "layers". `remat` trades compute
    for memory in the backward pass: "dots" keeps matrix products, "full" keeps only each block's input.
    Parameters are float32, arithmetic is in `dtype`. `taps` are depths, 1 to `depth` - 1, whose states
    `encode` hands on beside the last one, for what aligns or fuses streams at several depths.
    """

    depth: int
    width: int
    num_heads: int
    mlp_width: int
    norm: Literal["pre", "post"] = "pre"
    activation: str = "gelu_tanh"
    causal: bool = False
    use_bias: bool = True
    epsilon: float = 1e-6
    dropout: float = 0.0
    scan: bool = True
    remat: Literal["none", "dots", "full"] = "none"
    taps: tuple[int, ...] = ()
    dtype: str = "float32"

    @classmethod
    def of(cls, depth: int, width: int, *, num_heads: int | None = None, **fields: Any) -> "Transformer":
        """The usual proportions: heads of 64 channels, and an MLP four times as wide as the residual stream.

        Args:
          num_heads: None takes width / 64, at least 1.
          fields: any other field, such as `causal=True`.

        >>> Transformer.of(12, 768).num_heads, Transformer.of(12, 768).mlp_width
        (12, 3072)
        """
        heads = max(1, width // 64) if num_heads is None else num_heads
        return cls(**{"depth": depth, "width": width, "num_heads": heads, "mlp_width": 4 * width} | fields)

    def __call__(
        self,
        x: Float[jax.Array, "B L D"],
        mask: Bool[jax.Array, "B L"],
        train: bool = False,
        allowed: Bool[jax.Array, "#B L L"] | None = None,
    ) -> Float[jax.Array, "B L D"]:
        """What is under a False mask changes nothing that is under a True one.

        allowed: which position may attend to which, as MultiHeadAttention's.
        """
        return self.states(x, mask, train, allowed)[0]

    def encode(
        self,
        x: Float[jax.Array, "B L D"],
        mask: Bool[jax.Array, "B L"],
        train: bool = False,
        allowed: Bool[jax.Array, "#B L L"] | None = None,
    ) -> Encoded:
        """The same as an encoder's result, with the states at `taps`."""
        x, hidden_states = self.states(x, mask, train, allowed)
        return Encoded(x, mask, hidden_states)

    @nn.compact
    def states(
        self, x: jax.Array, mask: jax.Array, train: bool, allowed: jax.Array | None
    ) -> tuple[Float[jax.Array, "B L D"], tuple[Float[jax.Array, "B L D"], ...]]:
        """The last state, normalised if pre-norm, and those at `taps` as they are."""
        if x.shape[-1] != self.width:
            raise ValueError(f"the trunk has width {self.width}, and its input has width {x.shape[-1]}")
        if not all(0 < tap < self.depth for tap in self.taps):
            raise ValueError(f"taps expects depths of 1 to {self.depth - 1}, found {self.taps}")
        block = Block
        if self.remat != "none":
            # Under scan XLA finds nothing to merge the recomputation with: no barrier is needed.
            block = nn.remat(
                Block, policy=REMAT_POLICIES[self.remat], prevent_cse=not self.scan, static_argnums=(3,)
            )
        options: dict[str, Any] = dict(
            num_heads=self.num_heads, mlp_width=self.mlp_width, norm=self.norm, activation=self.activation,
            causal=self.causal, use_bias=self.use_bias, epsilon=self.epsilon, dropout=self.dropout,
            dtype=self.dtype,
        )  # fmt: skip
        x = shard(x.astype(self.dtype), "act_batch", "act_length", "act_embed")
        depths: Any = []  # states, lowest first: a list, or stacked along a first axis
        if self.scan:

            def layer(module, carry, _):
                carry = module(carry, mask, train, allowed)
                return carry, carry if self.taps else None

            layers = nn.scan(
                layer, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True},
                length=self.depth, metadata_params=LAYERS_METADATA,
            )  # fmt: skip
            x, depths = layers(block(**options, name="layers"), x, None)
        else:
            for i in range(self.depth):
                x = block(**options, name=f"layer_{i}")(x, mask, train, allowed)
                depths.append(x)
        hidden_states = tuple(depths[tap - 1] for tap in self.taps)
        if self.norm == "pre":
            norm = LayerNorm(self.epsilon, use_bias=self.use_bias, dtype=self.dtype, name="final_norm")
            x = norm(x)
        return x, hidden_states
