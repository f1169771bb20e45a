"""A trunk that reads one position after the other."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded
from mmjax.layers.einsum import Einsum
from mmjax.sharding import shard

GATES = {"lstm": 4, "gru": 3}


class RecurrentLayer(nn.Module):
    """One direction of an LSTM or a GRU: ``"B L D" -> "B L M"``. A masked step leaves the state as it is.

    "lstm": Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, whose bias starts at one
    (Jozefowicz et al. 2015, section 4.3). With a = W x + U h + b in four parts:
    ``c' = sigmoid(a_forget + 1) c + sigmoid(a_input) tanh(a_new)``, ``h' = sigmoid(a_output) tanh(c')``.

    "gru": Cho et al. 2014, eq. 5 to 8, with the reset gate behind the product, so that a step is one product:
    ``n = tanh(W_n x + b_n + r U_n h)``, ``h' = z h + (1 - z) n``.

    The input's products are one for all positions; the state is float32. In letters, G gates of M units.
    """

    width: int
    cell: Literal["lstm", "gru"] = "lstm"
    reverse: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"]
    ) -> Float[jax.Array, "B L {self.width}"]:
        if self.cell not in GATES:
            raise ValueError(f"cell expects one of {sorted(GATES)}, found {self.cell!r}")
        num_gates = GATES[self.cell]
        inputs = Einsum(
            "B L D, D G M -> B L G M", shape=(x.shape[-1], num_gates, self.width), axes=("embed", None, None),
            dtype=self.dtype, name="input",
        )(x)  # fmt: skip
        recurrent = Einsum(
            "B N, N G M -> B G M", shape=(self.width, num_gates, self.width), axes=("embed", None, None),
            use_bias=False, dtype=self.dtype, name="recurrent",
        )  # fmt: skip
        # Positions and kernel whole before the loop: else devices would exchange them at every step.
        inputs = shard(inputs, "act_batch", None, None, None)
        kernel = shard(recurrent.parameters()[0].astype(self.dtype), None, None, None)

        def step(state, this):
            gates, here = this
            made = jnp.einsum("BN,NGM->BGM", state[0].astype(self.dtype), kernel)
            new = CELLS[self.cell](state, gates.astype(jnp.float32), made.astype(jnp.float32))
            state = tuple(jnp.where(here[:, None], a, b) for a, b in zip(new, state, strict=True))
            return state, state[0].astype(self.dtype)

        zeros = jnp.zeros((x.shape[0], self.width), jnp.float32)
        _, hidden = jax.lax.scan(step, (zeros, zeros), (inputs.swapaxes(0, 1), mask.T), reverse=self.reverse)
        return hidden.swapaxes(0, 1)


def lstm(state, inputs, made):
    """(h, c) -> (h', c'); gates are input, forget, new, output."""
    admit, keep, new, emit = (inputs + made).swapaxes(0, 1)
    memory = jax.nn.sigmoid(keep + 1) * state[1] + jax.nn.sigmoid(admit) * jnp.tanh(new)
    return jax.nn.sigmoid(emit) * jnp.tanh(memory), memory


def gru(state, inputs, made):
    """(h, unused) -> (h', unused); gates are reset, update, new."""
    reset, update = (jax.nn.sigmoid(inputs[:, i] + made[:, i]) for i in (0, 1))
    new = jnp.tanh(inputs[:, 2] + reset * made[:, 2])
    return update * state[0] + (1 - update) * new, state[1]


CELLS = {"lstm": lstm, "gru": gru}


class Recurrent(nn.Module):
    """`depth` recurrent layers; if bidirectional, half of each reads backwards (Schuster & Paliwal 1997).

    The backward half starts at the last position that is there, since masked steps leave its zero state as it
    is. One direction alone is causal. Dropout is on the inputs of every layer but the first, never on the
    state (Zaremba et al. 2014). `taps` are depths, 1 to `depth` - 1, as Transformer's.
    """

    depth: int
    width: int
    cell: Literal["lstm", "gru"] = "lstm"
    bidirectional: bool = True
    dropout: float = 0.0
    taps: tuple[int, ...] = ()
    dtype: str = "float32"

    def __call__(
        self, x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"], train: bool = False
    ) -> Float[jax.Array, "B L D"]:
        """What is under a False mask changes nothing that is under a True one."""
        return self.encode(x, mask, train).embeddings

    @nn.compact
    def encode(
        self, x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"], train: bool = False
    ) -> Encoded:
        """The same as an encoder's result, with the states at `taps`."""
        if x.shape[-1] != self.width:
            raise ValueError(f"the trunk has width {self.width}, and its input has width {x.shape[-1]}")
        if not all(0 < tap < self.depth for tap in self.taps):
            raise ValueError(f"taps expects depths of 1 to {self.depth - 1}, found {self.taps}")
        if self.bidirectional and self.width % 2:
            raise ValueError(f"bidirectional expects an even width, half for each way, found {self.width}")
        ways = {"forward": False, "backward": True} if self.bidirectional else {"forward": False}
        depths, x = [], x.astype(self.dtype)
        for i in range(self.depth):
            if i:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            read = [
                RecurrentLayer(
                    self.width // len(ways), self.cell, reverse, dtype=self.dtype, name=f"layer_{i}_{way}"
                )(x, mask)
                for way, reverse in ways.items()
            ]
            x = shard(jnp.concatenate(read, axis=-1), "act_batch", "act_length", "act_embed")
            depths.append(x)
        return Encoded(x, mask, tuple(depths[tap - 1] for tap in self.taps))
