"""Recurrent text encoders against loops of their equations; causality by gradient."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from catalog import row
from catalog.row import random_parameters

from mmjax import encoders, layers
from mmjax.batch import Text
from mmjax.testing import TOLERANCE

B, L, D, VOCAB = 3, 6, 8, 12
STACK = TOLERANCE["fp32_stack"]


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(row.normal(*shape))


def text(mask: np.ndarray) -> Text:
    """A text with another token at every position."""
    tokens = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape)
    return jax.tree.map(jnp.asarray, Text(tokens, mask, np.zeros_like(tokens), tokens))


def mask_with_gaps() -> jax.Array:
    """An unmasked row, a row masked at the start, middle and end, and a fully masked row."""
    return jnp.array([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(x, valid, p, cell: str, backward: bool) -> dict[int, np.ndarray]:
    """One direction of one example, "L D", over the valid positions: {position: state}."""
    kernel, bias, recurrent = p["input"]["kernel"], p["input"]["bias"], p["recurrent"]["kernel"]
    h, c, states = np.zeros(kernel.shape[2]), np.zeros(kernel.shape[2]), {}
    for t in reversed(valid) if backward else valid:
        wx = np.einsum("D,DGM->GM", x[t], kernel) + bias
        uh = np.einsum("N,NGM->GM", h, recurrent)
        if cell == "lstm":
            input_gate, forget_gate, new, output_gate = wx + uh
            c = sigmoid(forget_gate + 1) * c + sigmoid(input_gate) * np.tanh(new)
            h = sigmoid(output_gate) * np.tanh(c)
        else:
            reset, update = sigmoid(wx[0] + uh[0]), sigmoid(wx[1] + uh[1])
            h = update * h + (1 - update) * np.tanh(wx[2] + reset * uh[2])
        states[t] = h
    return states


@pytest.mark.parametrize("cell, bidirectional", [("lstm", True), ("gru", True), ("gru", False)])
def test_recurrent_layers(cell, bidirectional):
    trunk = layers.Recurrent(depth=2, width=D, cell=cell, bidirectional=bidirectional, taps=(1,))
    x, mask = normal(B, L, D), mask_with_gaps()
    params = random_parameters(trunk, x, mask)
    found = jax.jit(lambda x: trunk.apply({"params": params}, x, mask, method="encode"))(x)
    exact = jax.tree.map(np.float64, params)
    for i in range(B - 1):
        states, valid = np.float64(x[i]), np.flatnonzero(mask[i])
        for layer, output in (("layer_0", found.hidden_states[0]), ("layer_1", found.embeddings)):
            directions = [loop(states, valid, exact[f"{layer}_forward"], cell, backward=False)]
            if bidirectional:
                directions.append(loop(states, valid, exact[f"{layer}_backward"], cell, backward=True))
            states = np.full((L, D), np.nan)
            for t in valid:
                states[t] = np.concatenate([direction[t] for direction in directions])
            np.testing.assert_allclose(output[i][valid], states[valid], rtol=STACK, atol=STACK)


def text_encoders() -> dict[str, encoders.Encoder]:
    trunk = dict(depth=1, width=D, num_heads=2, mlp_width=D)
    return {
        "transformer": encoders.TextTransformer(VOCAB, layers.Transformer(**trunk), max_length=L),
        "transformer, causal": encoders.TextTransformer(
            VOCAB, layers.Transformer(**trunk, causal=True), max_length=L
        ),
        "lstm": encoders.RecurrentText(VOCAB, layers.Recurrent(depth=1, width=D)),
        "lstm, causal": encoders.RecurrentText(
            VOCAB, layers.Recurrent(depth=2, width=D, bidirectional=False)
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", text_encoders())
def test_whether_a_text_encoder_is_causal(name):
    """By the gradient of each position with respect to the embedding of each token."""
    encoder, inputs = text_encoders()[name], text(np.ones((1, L), bool))
    params = random_parameters(encoder, inputs)

    def output(table):
        embeddings = encoder.apply({"params": params | {"table": table}}, inputs).embeddings
        return (embeddings[0] * jnp.cos(jnp.arange(D, dtype=jnp.float32))[None]).sum(-1)

    gradient = np.abs(jax.jit(jax.jacrev(output))(params["table"]))[:, :L].max(-1)  # position, token
    assert (gradient[np.tril_indices(L)] > 0).all()
    later = gradient[np.triu_indices(L, 1)]
    assert (later == 0).all() if "causal" in name else (later > 0).all()
    assert encoder.is_causal == ("causal" in name)


def test_padding_does_not_change_the_encoding():
    """The backward direction starts at the last valid token."""
    encoder = encoders.RecurrentText(VOCAB, layers.Recurrent(depth=2, width=D))
    short = text(np.ones((1, 3), bool))
    params = random_parameters(encoder, short)
    run = jax.jit(lambda inputs: encoder.apply({"params": params}, inputs).embeddings)
    padded = text(np.arange(L)[None] < 3)
    np.testing.assert_allclose(run(padded)[:, :3], run(short), rtol=STACK, atol=STACK)


def test_invalid_fields_are_refused(monkeypatch):
    x, mask = normal(B, L, D), mask_with_gaps()

    def init(**changes):
        layers.Recurrent(**{"depth": 1, "width": D} | changes).init(jax.random.key(0), x, mask)

    with pytest.raises(ValueError, match="the trunk has width 16, and its input has width 8"):
        init(width=16)
    with pytest.raises(ValueError, match=r"taps expects layers from 1 to 0, found \(1,\)"):
        init(taps=(1,))
    with pytest.raises(ValueError, match="an even width, half for each direction, found 7"):
        layers.Recurrent(depth=1, width=7).init(jax.random.key(0), x[..., :7], mask)
    with pytest.raises(ValueError, match=r"cell expects one of \['gru', 'lstm'\], found 'rnn'"):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in a run
        layers.recurrent.RecurrentLayer(D, "rnn").init(jax.random.key(0), x, mask)
