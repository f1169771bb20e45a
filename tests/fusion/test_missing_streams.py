"""Every fusion, for every subset of its streams: results are finite, and missing streams change nothing."""

import functools

import jax
import numpy as np
import pytest
from catalog.of_fusion import FUSION
from fusion_inputs import weighted_sum
from test_catalog import parameters

from mmjax.batch import Encoded
from mmjax.experiment import reading, serialize

pytestmark = pytest.mark.once

SUBSETS = [("text", "image"), ("text",), ("image",), ()]
# Fusions whose results must not depend on another modality.
INDEPENDENT = {"fusion.Late"}


def rows(condition=lambda row: True):
    marked = [
        pytest.param(r, id=r.name, marks=pytest.mark.xdist_group(r.name)) for r in FUSION if condition(r)
    ]
    return pytest.mark.parametrize("row", marked)


def with_only(encoded: dict, present: tuple[str, ...], scale: float = 1.0) -> dict:
    """The encodings with text and image missing unless present; those missing are multiplied by `scale`."""

    def mask_out(name: str, value: Encoded) -> Encoded:
        if name in (*present, "other"):
            return value
        hidden_states = tuple(scale * x for x in value.hidden_states)
        return Encoded(scale * value.embeddings, np.zeros_like(value.mask), hidden_states)

    return {name: mask_out(name, value) for name, value in encoded.items()}


@functools.cache
def compiled(name: str):
    """encoded -> ({stream: unmasked results}, gradients of parameters, gradients of encodings)."""
    row = next(row for row in FUSION if row.name == name)

    def loss(params, content, masks):
        encoded = {name: Encoded(x[0], masks[name], x[1]) for name, x in content.items()}
        fused = row.make("float32").apply({"params": params}, encoded)
        return weighted_sum({name: value for name, value in fused.items() if name != "other"})

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def run(encoded):
        content = {name: (value.embeddings, value.hidden_states) for name, value in encoded.items()}
        masks = {name: x.mask for name, x in encoded.items()}
        (_, results), grads = gradient(parameters(name), content, masks)
        return results, *grads

    return run


@rows()
def test_results_and_gradients_are_finite_and_independent_of_missing_streams(row):
    for present in SUBSETS:
        encoded = with_only(row.inputs()[0], present)
        results, param_grads, content_grads = compiled(row.name)(encoded)
        for leaf in jax.tree.leaves((results, param_grads, content_grads)):
            assert np.isfinite(leaf).all(), present
        for name in {"text", "image"} - set(present):
            grads = jax.tree.leaves(content_grads[name])
            assert all((np.asarray(x) == 0).all() for x in grads), (present, name)
        changed, _, _ = compiled(row.name)(with_only(row.inputs()[0], present, scale=-3.0))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), changed, results)


@rows(lambda row: row.name not in INDEPENDENT)
def test_results_depend_on_a_present_image(row):
    encoded = row.inputs()[0]
    names = set(row.make("float32").made_streams()) or {"text"}
    results, _, content_grads = compiled(row.name)(encoded)
    without_image, _, _ = compiled(row.name)(with_only(encoded, ("text",)))
    present = encoded["image"].mask.any(1) & encoded["text"].mask.any(1)
    assert present.any()
    for name in names - {"votes_text", "votes_image"}:
        difference = np.abs(np.asarray(results[name]) - np.asarray(without_image[name]))
        differs = difference.reshape(len(present), -1).max(1) > 1e-4
        assert differs[present].all(), name
    has_gradient = np.abs(np.asarray(content_grads["image"][0])).max(-1) > 0
    np.testing.assert_array_equal(has_gradient[present], encoded["image"].mask[present])


@rows()
def test_output_streams_are_the_inputs_and_made_streams(row):
    module, encoded = row.make("float32"), row.inputs()[0]
    fused = jax.eval_shape(lambda encoded: module.apply({"params": parameters(row.name)}, encoded), encoded)
    assert set(fused) == set(encoded) | set(module.made_streams())
    assert fused["other"].embeddings.shape == encoded["other"].embeddings.shape
    for value in fused.values():
        assert value.mask.shape == value.embeddings.shape[:2]


@rows()
def test_serialized_text_reads_back_as_an_equal_fusion(row):
    module = row.make("float32")
    assert reading.from_text(serialize.to_text(module)) == module
