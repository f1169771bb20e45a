"""Every fusion, given any subset of its modalities: nothing breaks, and what is absent says nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_fusion import FUSION
from test_catalog import parameters

from mmjax.batch import Encoded
from mmjax.experiment import serialize

pytestmark = pytest.mark.once

SUBSETS = [("text", "image"), ("text",), ("image",), ()]
# Of these the result of one modality is not to depend on the other: that is what they are for.
APART = {"fusion.Late"}


def rows(chosen=lambda row: True):
    marked = [pytest.param(r, id=r.name, marks=pytest.mark.xdist_group(r.name)) for r in FUSION if chosen(r)]
    return pytest.mark.parametrize("row", marked)


def with_only(encoded: dict, there: tuple[str, ...], scale: float = 1.0) -> dict:
    """The rest missing everywhere, and its content multiplied."""

    def hide(name: str, value: Encoded) -> Encoded:
        if name in (*there, "other"):
            return value
        lower = tuple(scale * x for x in value.hidden_states)
        return Encoded(scale * value.embeddings, np.zeros_like(value.mask), lower)

    return {name: hide(name, value) for name, value in encoded.items()}


@functools.cache
def compiled(name: str):
    """encoded -> ({stream: what a reader sees}, gradients of parameters and of encodings)."""
    row = next(row for row in FUSION if row.name == name)

    def loss(params, content, masks):
        encoded = {name: Encoded(x[0], masks[name], x[1]) for name, x in content.items()}
        fused = row.make("float32").apply({"params": params}, encoded)
        seen = {
            name: jnp.where(x.mask[..., None], x.embeddings, 0)
            for name, x in fused.items()
            if name != "other"
        }
        weighed = [
            (x * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)).sum() for x in seen.values()
        ]
        return sum(weighed), seen

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def run(encoded):
        content = {name: (value.embeddings, value.hidden_states) for name, value in encoded.items()}
        (_, seen), grads = gradient(parameters(name), content, {name: x.mask for name, x in encoded.items()})
        return seen, *grads

    return run


@rows()
def test_any_subset_gives_finite_results_and_gradients_and_no_other_has_a_say(row):
    for there in SUBSETS:
        encoded = with_only(row.inputs()[0], there)
        seen, by_params, by_content = compiled(row.name)(encoded)
        for leaf in jax.tree.leaves((seen, by_params, by_content)):
            assert np.isfinite(leaf).all(), there
        for name in {"text", "image"} - set(there):
            assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(by_content[name])), (there, name)
        other, _, _ = compiled(row.name)(with_only(row.inputs()[0], there, scale=-3.0))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), other, seen)


@rows(lambda row: row.name not in APART)
def test_what_is_there_has_a_say(row):
    """The text stream, or the one that is made, feels the picture, where there is one."""
    encoded = row.inputs()[0]
    result = set(row.make("float32").made_streams()) or {"text"}
    seen, _, by_content = compiled(row.name)(encoded)
    without, _, _ = compiled(row.name)(with_only(encoded, ("text",)))
    there = encoded["image"].mask.any(1) & encoded["text"].mask.any(1)
    assert there.any()
    for name in result - {"votes_text", "votes_image"}:
        differs = (
            np.abs(np.asarray(seen[name]) - np.asarray(without[name])).reshape(len(there), -1).max(1) > 1e-4
        )
        assert differs[there].all(), name
    felt = np.abs(np.asarray(by_content["image"][0])).max(-1) > 0
    np.testing.assert_array_equal(felt[there], encoded["image"].mask[there])


@rows()
def test_the_streams_are_those_that_it_says(row):
    """Those it was given, and those of `made_streams`; what it is not asked to read is passed on as it is."""
    module, encoded = row.make("float32"), row.inputs()[0]
    made = jax.eval_shape(lambda given: module.apply({"params": parameters(row.name)}, given), encoded)
    assert set(made) == set(encoded) | set(module.made_streams())
    assert made["other"].embeddings.shape == encoded["other"].embeddings.shape
    for value in made.values():
        assert value.mask.shape == value.embeddings.shape[:2]


@rows()
def test_it_can_be_written_down_and_read_back(row):
    module = row.make("float32")
    assert serialize.from_text(serialize.to_text(module)) == module
