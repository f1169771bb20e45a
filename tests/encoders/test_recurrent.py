"""Recurrent text towers against loops of their equations; who feels whom, by gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from catalog import row

from mmjax import encoders, layers
from mmjax.batch import Text
from mmjax.testing import TOLERANCE

B, L, D, VOCAB = 3, 6, 8, 12
STACK = TOLERANCE["fp32_stack"]


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(row.normal(*shape))


def random_parameters(module, *inputs):
    """Biases too: at their initial zero they would hide what is done with them."""
    abstract = nn.meta.unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32), abstract)


def text(mask: np.ndarray) -> Text:
    """Every position its own token."""
    tokens = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape)
    return jax.tree.map(jnp.asarray, Text(tokens, mask, np.zeros_like(tokens), tokens))


def gapped() -> np.ndarray:
    """A whole row, one with padding before, between and behind, and an empty one."""
    return jnp.array([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(x, there, p, cell: str, backward: bool) -> dict[int, np.ndarray]:
    """One direction of one example, "L D": only the positions that are there, {position: state}."""
    kernel, bias, recurrent = p["input"]["kernel"], p["input"]["bias"], p["recurrent"]["kernel"]
    h, c, states = np.zeros(kernel.shape[2]), np.zeros(kernel.shape[2]), {}
    for t in reversed(there) if backward else there:
        inputs = np.einsum("D,DGM->GM", x[t], kernel) + bias
        made = np.einsum("N,NGM->GM", h, recurrent)
        if cell == "lstm":
            admit, keep, new, emit = inputs + made
            c = sigmoid(keep + 1) * c + sigmoid(admit) * np.tanh(new)
            h = sigmoid(emit) * np.tanh(c)
        else:
            reset, update = sigmoid(inputs[0] + made[0]), sigmoid(inputs[1] + made[1])
            h = update * h + (1 - update) * np.tanh(inputs[2] + reset * made[2])
        states[t] = h
    return states


@pytest.mark.parametrize("cell, bidirectional", [("lstm", True), ("gru", True), ("gru", False)])
def test_recurrent_layers(cell, bidirectional):
    trunk = layers.Recurrent(depth=2, width=D, cell=cell, bidirectional=bidirectional, taps=(1,))
    x, mask = normal(B, L, D), gapped()
    params = random_parameters(trunk, x, mask)
    found = jax.jit(lambda x: trunk.apply({"params": params}, x, mask, method="encode"))(x)
    exact = jax.tree.map(np.float64, params)
    for i in range(B - 1):
        states, there = np.float64(x[i]), np.flatnonzero(mask[i])
        for layer, output in (("layer_0", found.hidden_states[0]), ("layer_1", found.embeddings)):
            ways = [loop(states, there, exact[f"{layer}_forward"], cell, backward=False)]
            if bidirectional:
                ways.append(loop(states, there, exact[f"{layer}_backward"], cell, backward=True))
            states = np.full((L, D), np.nan)
            for t in there:
                states[t] = np.concatenate([way[t] for way in ways])
            np.testing.assert_allclose(output[i][there], states[there], rtol=STACK, atol=STACK)


def towers() -> dict[str, nn.Module]:
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


@pytest.mark.parametrize("name", towers())
def test_whether_a_text_tower_is_causal(name):
    """By gradient with respect to the rows of its table, one a position."""
    tower, inputs = towers()[name], text(np.ones((1, L), bool))
    params = random_parameters(tower, inputs)

    def output(table):
        embeddings = tower.apply({"params": params | {"table": table}}, inputs).embeddings
        return (embeddings[0] * jnp.cos(jnp.arange(D, dtype=jnp.float32))[None]).sum(-1)

    felt = np.abs(jax.jit(jax.jacrev(output))(params["table"]))[:, :L].max(-1)  # position, token
    assert (felt[np.tril_indices(L)] > 0).all()
    later = felt[np.triu_indices(L, 1)]
    assert (later == 0).all() if "causal" in name else (later > 0).all()


def test_padding_changes_nothing():
    """The backward direction starts at the last token, however much padding is behind it."""
    tower = encoders.RecurrentText(VOCAB, layers.Recurrent(depth=2, width=D))
    short = text(np.ones((1, 3), bool))
    params = random_parameters(tower, short)
    run = jax.jit(lambda inputs: tower.apply({"params": params}, inputs).embeddings)
    padded = text(np.arange(L)[None] < 3)
    np.testing.assert_allclose(run(padded)[:, :3], run(short), rtol=STACK, atol=STACK)


def test_misfits_are_refused(monkeypatch):
    x, mask = normal(B, L, D), gapped()

    def init(**changes):
        layers.Recurrent(**{"depth": 1, "width": D} | changes).init(jax.random.key(0), x, mask)

    with pytest.raises(ValueError, match="the trunk has width 16, and its input has width 8"):
        init(width=16)
    with pytest.raises(ValueError, match=r"taps expects depths of 1 to 0, found \(1,\)"):
        init(taps=(1,))
    with pytest.raises(ValueError, match="bidirectional expects an even width, half for each way, found 7"):
        layers.Recurrent(depth=1, width=7).init(jax.random.key(0), x[..., :7], mask)
    with pytest.raises(ValueError, match=r"cell expects one of \['gru', 'lstm'\], found 'rnn'"):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside tests
        layers.recurrent.RecurrentLayer(D, "rnn").init(jax.random.key(0), x, mask)
