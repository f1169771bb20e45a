"""Pictures of any aspect: packed equals unpacked, and a patch is known by its row and column alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog import row

from mmjax import encoders
from mmjax.batch import Patches
from mmjax.encoders.packing import share_kept
from mmjax.testing import TOLERANCE

B, L = 6, 8
STACK = TOLERANCE["fp32_stack"]


def random_parameters(module, *inputs):
    abstract = nn.meta.unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32), abstract)


def pictures(lengths=(3, 8, 0, 2, 5, 1), length: int = L) -> Patches:
    """Rows of two patches, so many of them there."""
    mask = np.arange(length)[None] < np.array(lengths)[:, None]
    place = np.broadcast_to(np.arange(length, dtype=np.int32), mask.shape)
    patches = row.normal(len(lengths), L, 5)[:, :length]
    return jax.tree.map(jnp.asarray, Patches(patches, place // 2, place % 2, mask))


def tower(packing: encoders.Packing | None = None) -> encoders.NaViT:
    return encoders.NaViT(row.trunk(depth=2, taps=(1,)), packing)


def run(module, params, image):
    """(what is there of the output and of the lower depth, gradients of the parameters)."""

    def loss(params):
        encoded = module.apply({"params": params}, image)
        there = encoded.mask[..., None]
        seen = [jnp.where(there, x, 0) for x in (encoded.embeddings, *encoded.hidden_states)]
        return sum(jnp.sin(x).sum() for x in seen), (seen, encoded.mask)

    (_, output), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return output, grads


@pytest.mark.parametrize("examples, length", [(2, 11), (3, 11), (6, 19)])
def test_packed_equals_unpacked(examples, length):
    """Forward, at lower depths, and in the gradient; the length is that of the fullest row."""
    image = pictures()
    params = random_parameters(tower(), image)
    packed = tower(encoders.Packing(examples=examples, length=length))
    expected, found = run(tower(), params, image), run(packed, params, image)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=STACK, atol=STACK), found, expected)


def test_what_has_no_room_is_masked_from_the_end():
    image = pictures()
    packing = encoders.Packing(
        examples=3, length=9
    )  # 3 + 8 + 0 there in the first row, 2 + 5 + 1 in the other
    kept = packing.places(image.mask).kept
    np.testing.assert_array_equal(kept.sum(1), [3, 6, 0, 2, 5, 1])
    assert (np.asarray(kept) <= image.mask).all() and kept[1, :6].all()
    np.testing.assert_allclose(share_kept(packing, image.mask), 17 / 19)
    params = random_parameters(tower(), image)
    # What is cut off is as if it had never been.
    expected, _ = run(tower(), params, image.replace(mask=kept))
    found, _ = run(tower(packing), params, image)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=STACK, atol=STACK), found, expected)


def test_every_place_holds_one_position():
    mask = np.random.default_rng(0).random((6, 7)) < 0.5  # gaps too
    packing = encoders.Packing(examples=3, length=14)
    places = jax.tree.map(np.asarray, packing.places(jnp.asarray(mask)))
    for r in range(2):
        expected = [(e, p) for e in range(3) for p in range(7) if mask[3 * r + e, p]][:14]
        filled = places.segment[r] >= 0
        found = [divmod(int(s), 7) for s in places.source[r][filled]]
        assert found == expected and filled[: len(expected)].all()
        for place, (e, p) in enumerate(expected):
            assert places.place[3 * r + e, p] == place and places.segment[r, place] == e


def test_a_patch_is_known_by_its_row_and_column():
    """The order of patches says nothing; exchanged rows and columns do."""
    image = pictures((8, 8))
    params = random_parameters(tower(), image)
    apply = jax.jit(lambda image: tower().apply({"params": params}, image).embeddings)
    order = np.random.default_rng(0).permutation(L)
    shuffled = jax.tree.map(lambda x: x[:, order], image)
    np.testing.assert_allclose(apply(shuffled), apply(image)[:, order], rtol=STACK, atol=STACK)
    turned = image.replace(rows=image.columns, columns=image.rows)
    assert np.abs(apply(turned) - apply(image)).max() > 0.1


def test_positions_are_the_sum_of_a_row_and_a_column():
    image = pictures((8, 8))
    params = random_parameters(tower(), image)

    seen = {}

    def keep(next_, args, kwargs, context):
        if type(context.module).__name__ == "Transformer" and context.method_name == "encode":
            seen["x"] = args[0]
        return next_(*args, **kwargs)

    with nn.intercept_methods(keep):
        tower().apply({"params": params}, image)
    for i in range(L):
        patch = image.patches[0, i] @ params["linear"]["kernel"] + params["linear"]["bias"]
        expected = patch + params["rows"][i // 2] + params["columns"][i % 2]
        np.testing.assert_allclose(seen["x"][0, i], expected, rtol=STACK, atol=STACK)


def test_padding_changes_nothing():
    long, short = pictures((3, 5)), pictures((3, 5), length=6)
    params = random_parameters(tower(), long)
    cut = params | {name: params[name][:6] for name in ("rows", "columns")}
    found = tower().apply({"params": params}, long).embeddings[:, :6]
    expected = tower().apply({"params": cut}, short).embeddings
    there = short.mask
    np.testing.assert_allclose(found[there], expected[there], rtol=STACK, atol=STACK)


@pytest.mark.parametrize(
    "examples, length, words",
    [
        (4, 20, "a batch of 6 does not divide into rows of 4 packed examples"),
        (2, 7, "expected a packed length from 8, the longest example, to 16, all of 2 examples, found 7"),
        (2, 17, "to 16, all of 2 examples, found 17"),
    ],
)
def test_packings_that_do_not_fit_are_refused(examples, length, words):
    with pytest.raises(ValueError, match=words):
        tower(encoders.Packing(examples=examples, length=length)).init(jax.random.key(0), pictures())
