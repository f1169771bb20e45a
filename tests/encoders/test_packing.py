"""NaViT: packed equals unpacked, and the position of a patch is its row and column."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog import row
from catalog.row import random_parameters, trunk_inputs

from mmjax import encoders
from mmjax.batch import Patches
from mmjax.testing import TOLERANCE

B, L = 6, 8
STACK = TOLERANCE["fp32_stack"]


def images(lengths=(3, 8, 0, 2, 5, 1), length: int = L) -> Patches:
    """Images two patches wide, with so many valid patches each."""
    mask = np.arange(length)[None] < np.array(lengths)[:, None]
    index = np.broadcast_to(np.arange(length, dtype=np.int32), mask.shape)
    patches = row.normal(len(lengths), L, 5)[:, :length]
    return jax.tree.map(jnp.asarray, Patches(patches, index // 2, index % 2, mask))


def encoder(packing: encoders.Packing | None = None) -> encoders.NaViT:
    return encoders.NaViT(row.trunk(depth=2, taps=(1,)), packing)


def run(module, params, image):
    """Returns ((unmasked output and hidden state, mask), gradients of the parameters)."""

    def loss(params):
        encoded = module.apply({"params": params}, image)
        mask = encoded.mask[..., None]
        outputs = [jnp.where(mask, x, 0) for x in (encoded.embeddings, *encoded.hidden_states)]
        return sum(jnp.sin(x).sum() for x in outputs), (outputs, encoded.mask)

    (_, output), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return output, grads


@pytest.mark.parametrize("examples_per_row, row_length", [(2, 11), (3, 11), (6, 19)])
def test_packed_equals_unpacked(examples_per_row, row_length):
    """Compares outputs, hidden states and gradients; every row_length just fits the fullest row."""
    image = images()
    params = random_parameters(encoder(), image)
    packed = encoder(encoders.Packing(examples_per_row=examples_per_row, row_length=row_length))
    expected, found = run(encoder(), params, image), run(packed, params, image)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=STACK, atol=STACK), found, expected)


def test_positions_that_do_not_fit_are_masked_from_the_end():
    image = images()
    packing = encoders.Packing(examples_per_row=3, row_length=9)  # for 3 + 8 + 0 and 2 + 5 + 1 positions
    is_kept = packing.layout(image.mask).is_kept
    np.testing.assert_array_equal(is_kept.sum(1), [3, 6, 0, 2, 5, 1])
    assert (np.asarray(is_kept) <= image.mask).all() and is_kept[1, :6].all()
    np.testing.assert_allclose(packing.kept_fraction(image.mask), 17 / 19)
    params = random_parameters(encoder(), image)
    # The same as if the positions had been masked in the input.
    expected, _ = run(encoder(), params, image.replace(mask=is_kept))
    found, _ = run(encoder(packing), params, image)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=STACK, atol=STACK), found, expected)


def test_layout_moves_the_valid_positions_to_the_front():
    mask = np.random.default_rng(0).random((6, 7)) < 0.5  # with gaps
    packing = encoders.Packing(examples_per_row=3, row_length=14)
    layout = jax.tree.map(np.asarray, packing.layout(jnp.asarray(mask)))
    for r in range(2):
        expected = [(e, p) for e in range(3) for p in range(7) if mask[3 * r + e, p]][:14]
        filled = layout.segment_ids[r] >= 0
        found = [divmod(int(s), 7) for s in layout.source[r][filled]]
        assert found == expected and filled[: len(expected)].all()
        for index, (e, p) in enumerate(expected):
            assert layout.index_in_row[3 * r + e, p] == index and layout.segment_ids[r, index] == e


def test_the_order_of_patches_has_no_influence_but_their_row_and_column_have():
    image = images((8, 8))
    params = random_parameters(encoder(), image)
    apply = jax.jit(lambda image: encoder().apply({"params": params}, image).embeddings)
    order = np.random.default_rng(0).permutation(L)
    shuffled = jax.tree.map(lambda x: x[:, order], image)
    np.testing.assert_allclose(apply(shuffled), apply(image)[:, order], rtol=STACK, atol=STACK)
    transposed = image.replace(rows=image.columns, columns=image.rows)
    assert np.abs(apply(transposed) - apply(image)).max() > 0.1


def test_positions_are_the_sum_of_a_row_and_a_column():
    image = images((8, 8))
    params = random_parameters(encoder(), image)
    ((x, _),) = trunk_inputs(encoder(), params, image)
    for i in range(L):
        patch = image.patches[0, i] @ params["linear"]["kernel"] + params["linear"]["bias"]
        expected = patch + params["rows"][i // 2] + params["columns"][i % 2]
        np.testing.assert_allclose(x[0, i], expected, rtol=STACK, atol=STACK)


def test_padding_does_not_change_the_encoding():
    long, short = images((3, 5)), images((3, 5), length=6)
    params = random_parameters(encoder(), long)
    short_params = params | {name: params[name][:6] for name in ("rows", "columns")}
    found = encoder().apply({"params": params}, long).embeddings[:, :6]
    expected = encoder().apply({"params": short_params}, short).embeddings
    mask = short.mask
    np.testing.assert_allclose(found[mask], expected[mask], rtol=STACK, atol=STACK)


@pytest.mark.parametrize(
    "examples_per_row, row_length, message",
    [
        (4, 20, "a batch of 6 does not divide into rows of 4 packed examples"),
        (2, 7, "expected a row_length from 8, the length of one example, to 16, that of 2 examples, found 7"),
        (2, 17, "to 16, that of 2 examples, found 17"),
    ],
)
def test_packings_that_do_not_fit_are_refused(examples_per_row, row_length, message):
    with pytest.raises(ValueError, match=message):
        encoder(encoders.Packing(examples_per_row=examples_per_row, row_length=row_length)).init(
            jax.random.key(0), images()
        )
