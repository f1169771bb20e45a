"""LSTM and GRU trunks."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded
from mmjax.layers.base import Trunk
from mmjax.layers.einsum import Einsum
from mmjax.ranges import Decay, Dtype, Size
from mmjax.sharding import shard

NUM_GATES = {"lstm": 4, "gru": 3}


class RecurrentLayer(nn.Module):
    """One direction of an LSTM or a GRU: "B L D" -> "B L M". A masked position does not change the state.

    "lstm": Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, whose bias starts at one
    (Jozefowicz et al. 2015, section 4.3). With a = W x + U h + b in four parts:
    `c' = sigmoid(a_forget + 1) c + sigmoid(a_input) tanh(a_new)`, `h' = sigmoid(a_output) tanh(c')`.

    "gru": Cho et al. 2014, eq. 5 to 8, with the reset gate applied after the product, so that a step needs
    only one product: `n = tanh(W_n x + b_n + r U_n h)`, `h' = z h + (1 - z) n`.

    W x is computed for all positions at once; the state is float32. Axis letters: G gates, M units.
    """

    width: Size
    cell: Literal["lstm", "gru"] = "lstm"
    reverse: bool = False
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"]
    ) -> Float[jax.Array, "B L {self.width}"]:
        if self.cell not in NUM_GATES:
            raise ValueError(f"cell expects one of {sorted(NUM_GATES)}, found {self.cell!r}")
        num_gates = NUM_GATES[self.cell]
        inputs = Einsum(
            "B L D, D G M -> B L G M", shape=(x.shape[-1], num_gates, self.width), axes=("embed", None, None),
            dtype=self.dtype, name="input",
        )(x)  # fmt: skip
        recurrent = Einsum(
            "B N, N G M -> B G M", shape=(self.width, num_gates, self.width), axes=("embed", None, None),
            use_bias=False, dtype=self.dtype, name="recurrent",
        )  # fmt: skip
        # Gather positions and kernel before the loop: inside it, devices would communicate at every step.
        inputs = shard(inputs, "act_batch", None, None, None)
        kernel = shard(recurrent.parameters()[0].astype(self.dtype), None, None, None)

        def step(state, inputs_and_mask):
            wx, valid = inputs_and_mask
            uh = jnp.einsum("BN,NGM->BGM", state[0].astype(self.dtype), kernel)
            new = CELLS[self.cell](state, wx.astype(jnp.float32), uh.astype(jnp.float32))
            state = tuple(jnp.where(valid[:, None], a, b) for a, b in zip(new, state, strict=True))
            return state, state[0].astype(self.dtype)

        zeros = jnp.zeros((x.shape[0], self.width), jnp.float32)
        _, hidden = jax.lax.scan(step, (zeros, zeros), (inputs.swapaxes(0, 1), mask.T), reverse=self.reverse)
        return hidden.swapaxes(0, 1)


def lstm(state, wx, uh):
    """(h, c) -> (h', c'). The gates are input, forget, new, output."""
    input_gate, forget_gate, new, output_gate = (wx + uh).swapaxes(0, 1)
    c = jax.nn.sigmoid(forget_gate + 1) * state[1] + jax.nn.sigmoid(input_gate) * jnp.tanh(new)
    return jax.nn.sigmoid(output_gate) * jnp.tanh(c), c


def gru(state, wx, uh):
    """(h, unused) -> (h', unused). The gates are reset, update, new."""
    reset, update = (jax.nn.sigmoid(wx[:, i] + uh[:, i]) for i in (0, 1))
    new = jnp.tanh(wx[:, 2] + reset * uh[:, 2])
    return update * state[0] + (1 - update) * new, state[1]


CELLS = {"lstm": lstm, "gru": gru}


class Recurrent(Trunk):
    """A stack of LSTM or GRU layers.

    bidirectional: half of each layer's units read backwards (Schuster & Paliwal 1997), from the last valid
      position on, since masked positions do not change the zero initial state.
    dropout: on the inputs of every layer but the first, never on the state (Zaremba et al. 2014).
    """

    cell: Literal["lstm", "gru"] = "lstm"
    bidirectional: bool = True
    dropout: Decay = 0.0
    dtype: Dtype = "float32"

    @property
    def is_causal(self):
        return not self.bidirectional

    @nn.compact
    def encode(
        self, x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"], train: bool = False
    ) -> Encoded:
        self.check_input(x)
        if self.bidirectional and self.width % 2:
            raise ValueError(
                f"bidirectional expects an even width, half for each direction, found {self.width}"
            )
        directions = ("forward", "backward") if self.bidirectional else ("forward",)
        outputs, x = [], x.astype(self.dtype)
        for i in range(self.depth):
            if i:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            halves = [
                RecurrentLayer(
                    self.width // len(directions), self.cell, reverse=direction == "backward",
                    dtype=self.dtype, name=f"layer_{i}_{direction}",
                )(x, mask)
                for direction in directions
            ]  # fmt: skip
            x = shard(jnp.concatenate(halves, axis=-1), "act_batch", "act_length", "act_embed")
            outputs.append(x)
        return Encoded(x, mask, tuple(outputs[tap - 1] for tap in self.taps))
