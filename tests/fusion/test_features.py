"""Fusions of one vector per modality, against NumPy."""

import jax
import numpy as np
import pytest
from catalog.of_fusion import FUSION, PAIR
from catalog.row import D, L
from fusion_inputs import padded_pair
from test_catalog import parameters

from mmjax import fusion
from mmjax.testing import TOLERANCE

CLOSE = {"rtol": TOLERANCE["fp32_stack"], "atol": TOLERANCE["fp32_stack"]}


def module_and_params(name: str, **changes) -> tuple[fusion.Mean, dict]:
    """The module of a catalog row, and random parameters."""
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


def vectors_and_masks(
    params: dict, encoded: dict, updated_stream: str | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """f_m(x_m) of each modality, "B L D", zero where missing, and its mask, "B L"."""
    vectors, masks = [], []
    encoded = jax.tree.map(np.asarray, encoded)
    for stream in PAIR:
        value, mask = encoded[stream].embeddings, encoded[stream].mask
        x = linear(params[f"{stream}_in"], value)
        if f"{stream}_mlp" in params:
            mlp = params[f"{stream}_mlp"]
            x = x + linear(mlp["down"], gelu(linear(mlp["up"], norm(params[f"{stream}_mlp_norm"], x))))
        if stream != updated_stream:
            mean = [row[m].mean(0) if m.any() else 0 * row[0] for row, m in zip(x, mask, strict=True)]
            x, mask = np.stack(mean)[:, None], mask.any(1)[:, None]
        length = L if updated_stream else 1
        vectors.append(np.broadcast_to(np.where(mask[..., None], x, 0), (len(x), length, D)))
        masks.append(np.broadcast_to(mask, vectors[-1].shape[:2]))
    return vectors, masks


def mean(params, x, masks):
    num = np.maximum(sum(m.astype(int) for m in masks), 1)
    return sum(x) / num[..., None]


def concat_mlp(params, x, masks):
    y = np.concatenate([*x, np.stack(masks, axis=-1)], axis=-1)
    layer = 0
    while f"hidden_{layer}" in params:
        y = gelu(linear(params[f"hidden_{layer}"], y))
        layer += 1
    return linear(params["out"], y)


def gated_sum(params, x, masks):
    """The weights are a softmax over the present modalities, per example or per channel."""
    kernel, bias = params["gates"]["kernel"], params["gates"]["bias"]
    logits = np.tensordot(np.concatenate(x, axis=-1), kernel, axes=1) + bias
    logits = logits if kernel.ndim == 3 else np.repeat(logits[:, :, None], D, axis=2)
    weights = np.exp(logits) * np.stack(masks, axis=-1)[:, :, None]
    total = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return (weights * np.stack(x, axis=-1)).sum(-1)


def channel_cross(params, x, masks):
    start = state = np.concatenate(x, axis=-1)
    for layer in range(2):
        y = linear(params[f"down_{layer}"], state) if f"down_{layer}" in params else state
        state = start * linear(params[f"cross_{layer}"], y) + state
    return linear(params["out"], state)


@pytest.mark.parametrize("updated_stream", [None, "text"])
@pytest.mark.parametrize("reference", [concat_mlp, gated_sum, channel_cross, mean])
def test_against_numpy(reference, updated_stream):
    kind = {"mean": "Mean", "concat_mlp": "ConcatMlp", "gated_sum": "GatedSum"}.get(
        reference.__name__, "ChannelCross"
    )
    module, params = module_and_params(
        kind + ("" if updated_stream is None or kind == "Mean" else ".updated_stream"),
        updated_stream=updated_stream,
    )
    encoded = padded_pair()
    fused, state = module.apply(
        {"params": params}, encoded, capture_intermediates=lambda _, method: method == "combine"
    )
    expected = reference(params, *vectors_and_masks(params, encoded, updated_stream))
    result = fused[updated_stream or "fused"]
    # Compared before the norm, after which a mean and a sum are equal.
    np.testing.assert_allclose(state["intermediates"]["combine"][0], expected, **CLOSE)
    mask = (
        encoded["text"].mask
        if updated_stream
        else (encoded["text"].mask.any(1) | encoded["image"].mask.any(1))[:, None]
    )
    np.testing.assert_array_equal(result.mask, mask)
    np.testing.assert_allclose(result.embeddings, norm(params["norm"], expected), **CLOSE)


@pytest.mark.parametrize("name", ["GatedSum", "GatedSum.updated_stream"])
def test_gates_sum_to_one_over_the_present_modalities(name):
    module, params = module_and_params(name)
    encoded = padded_pair()
    _, state = module.apply(
        {"params": params}, encoded, capture_intermediates=lambda _, method: method == "gate_weights"
    )
    weights = np.asarray(state["intermediates"]["gate_weights"][0])
    encoded = jax.tree.map(np.asarray, encoded)
    text = encoded["text"].mask if module.updated_stream else encoded["text"].mask.any(1)[:, None]
    mask = np.stack([text, np.broadcast_to(encoded["image"].mask.any(1)[:, None], text.shape)], axis=-1)
    assert {(True, True), (True, False), (False, False)} <= {tuple(row) for row in mask.reshape(-1, 2)}
    expected = np.broadcast_to(mask.any(-1)[..., None], weights.sum(2).shape)
    np.testing.assert_allclose(weights.sum(2), expected, atol=1e-6)
    assert (weights[~mask] == 0).all() and (weights[mask] > 0).all()
    both_present = weights[mask.all(-1)]
    assert (both_present < 1).all() and both_present.std() > 0.01
