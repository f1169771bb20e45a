"""The feed-forward layer of a Transformer block."""

import flax.linen as nn
import jax
from jaxtyping import Float

from mmjax.layers.einsum import Einsum, stacked_projection
from mmjax.ranges import Activation, Dtype, Size
from mmjax.sharding import shard

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # CLIP
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.2),  # DCGAN's discriminator
}


class Mlp(nn.Module):
    """`activation(x W1 + b1) W2 + b2` at each position.

    gated: multiply the hidden channels by a second projection, `activation(x Wg + bg) (x W1 + b1)`. With
      "silu" it is SwiGLU (Shazeer 2020, eq. 6).
    """

    mlp_width: Size
    activation: Activation = "gelu_tanh"
    gated: bool = False
    use_bias: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B L D"]) -> Float[jax.Array, "B L D"]:
        width = x.shape[-1]

        def projection(name: str) -> Einsum:
            return Einsum(
                "B L D, D F -> B L F", shape=(width, self.mlp_width), axes=("embed", "mlp"),
                use_bias=self.use_bias, dtype=self.dtype, name=name,
            )  # fmt: skip

        activation = ACTIVATIONS[self.activation]
        if self.gated:
            gate, hidden = stacked_projection([projection("gate"), projection("up")], x)
            hidden = activation(gate) * hidden
        else:
            hidden = activation(projection("up")(x))
        hidden = shard(hidden, "act_batch", "act_length", "act_mlp")
        return Einsum(
            "B L F, F D -> B L D", shape=(self.mlp_width, width), axes=("mlp", "embed"),
            use_bias=self.use_bias, dtype=self.dtype, name="down",
        )(hidden)  # fmt: skip
