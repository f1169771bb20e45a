"""Fusion of a vector a modality, against NumPy."""

import jax
import numpy as np
import pytest
from catalog.of_fusion import FUSION, PAIR
from catalog.row import D, L
from fusion_inputs import pair
from test_catalog import parameters

from mmjax import fusion
from mmjax.testing import TOLERANCE

CLOSE = {"rtol": TOLERANCE["fp32_stack"], "atol": TOLERANCE["fp32_stack"]}


def made(name: str, **changes) -> tuple[fusion.Mean, dict]:
    """A row's module and parameters."""
    row = next(row for row in FUSION if row.name == f"fusion.{name}")
    return row.make("float32").clone(**changes), jax.tree.map(np.asarray, parameters(row.name))


def linear(params: dict, x: np.ndarray) -> np.ndarray:
    return x @ params["kernel"] + params.get("bias", 0.0)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(params: dict, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6) * params["scale"]
        + params["bias"]
    )


def vectors(params: dict, encoded: dict, reader: str | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """f_m(x_m), zero where it is not there, ``"B L D"``, and where it is, ``"B L"``, of each modality."""
    found, there = [], []
    encoded = jax.tree.map(np.asarray, encoded)
    for stream in PAIR:
        value, mask = encoded[stream].embeddings, encoded[stream].mask
        x = linear(params[f"{stream}_in"], value)
        if f"{stream}_mlp" in params:
            mlp = params[f"{stream}_mlp"]
            x = x + linear(mlp["down"], gelu(linear(mlp["up"], norm(params[f"{stream}_mlp_norm"], x))))
        if stream != reader:
            mean = [row[m].mean(0) if m.any() else 0 * row[0] for row, m in zip(x, mask, strict=True)]
            x, mask = np.stack(mean)[:, None], mask.any(1)[:, None]
        found.append(np.broadcast_to(np.where(mask[..., None], x, 0), (len(x), L if reader else 1, D)))
        there.append(np.broadcast_to(mask, found[-1].shape[:2]))
    return found, there


def mean(params, x, there):
    num = np.maximum(sum(m.astype(int) for m in there), 1)
    return sum(x) / num[..., None]


def concat_mlp(params, x, there):
    y = np.concatenate([*x, np.stack(there, axis=-1)], axis=-1)
    layer = 0
    while f"hidden_{layer}" in params:
        y = gelu(linear(params[f"hidden_{layer}"], y))
        layer += 1
    return linear(params["out"], y)


def gated_sum(params, x, there):
    """A weight a modality, or for each of its channels: the softmax over those that are there, by a loop."""
    kernel, bias = params["gates"]["kernel"], params["gates"]["bias"]
    logits = np.tensordot(np.concatenate(x, axis=-1), kernel, axes=1) + bias
    logits = logits if kernel.ndim == 3 else np.repeat(logits[:, :, None], D, axis=2)
    weights = np.exp(logits) * np.stack(there, axis=-1)[:, :, None]
    total = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return (weights * np.stack(x, axis=-1)).sum(-1)


def channel_cross(params, x, there):
    start = state = np.concatenate(x, axis=-1)
    for layer in range(2):
        y = linear(params[f"down_{layer}"], state) if f"down_{layer}" in params else state
        state = start * linear(params[f"cross_{layer}"], y) + state
    return linear(params["out"], state)


@pytest.mark.parametrize("reader", [None, "text"])
@pytest.mark.parametrize("by_hand", [concat_mlp, gated_sum, channel_cross, mean])
def test_against_numpy(by_hand, reader):
    kind = {"mean": "Mean", "concat_mlp": "ConcatMlp", "gated_sum": "GatedSum"}.get(
        by_hand.__name__, "ChannelCross"
    )
    module, params = made(kind + ("" if reader is None or kind == "Mean" else ".reader"), reader=reader)
    encoded = pair()
    fused, state = module.apply(
        {"params": params}, encoded, capture_intermediates=lambda _, method: method == "combine"
    )
    expected, found = by_hand(params, *vectors(params, encoded, reader)), fused[reader or "fused"]
    # Before the norm, which does not tell a mean from a sum.
    np.testing.assert_allclose(state["intermediates"]["combine"][0], expected, **CLOSE)
    there = (
        encoded["text"].mask
        if reader
        else (encoded["text"].mask.any(1) | encoded["image"].mask.any(1))[:, None]
    )
    np.testing.assert_array_equal(found.mask, there)
    np.testing.assert_allclose(found.embeddings, norm(params["norm"], expected), **CLOSE)


@pytest.mark.parametrize("name", ["GatedSum", "GatedSum.reader"])
def test_gates_sum_to_one_over_the_modalities_that_are_there(name):
    module, params = made(name)
    encoded = pair()
    _, state = module.apply(
        {"params": params}, encoded, capture_intermediates=lambda _, method: method == "weights"
    )
    weights = np.asarray(state["intermediates"]["weights"][0])
    encoded = jax.tree.map(np.asarray, encoded)
    text = encoded["text"].mask if module.reader else encoded["text"].mask.any(1)[:, None]
    there = np.stack([text, np.broadcast_to(encoded["image"].mask.any(1)[:, None], text.shape)], axis=-1)
    assert {(True, True), (True, False), (False, False)} <= {tuple(row) for row in there.reshape(-1, 2)}
    expected = np.broadcast_to(there.any(-1)[..., None], weights.sum(2).shape)
    np.testing.assert_allclose(weights.sum(2), expected, atol=1e-6)
    assert (weights[~there] == 0).all() and (weights[there] > 0).all()
    one_of_two = weights[there.all(-1)]
    assert (one_of_two < 1).all() and one_of_two.std() > 0.01
