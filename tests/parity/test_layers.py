"""Layers and stems against loops of their definitions; causality by gradient; equal implementations."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog import row
from catalog.row import random_parameters

from mmjax import encoders, layers
from mmjax.encoders.text import hash_ngram
from mmjax.layers.positions import sinusoids
from mmjax.testing import TOLERANCE

B, L, D, HEADS, F = 3, 5, 8, 2, 12
MODULE, STACK = TOLERANCE["fp32_module"], TOLERANCE["fp32_stack"]
TRUNK = dict(depth=2, width=D, num_heads=HEADS, mlp_width=F)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(row.normal(*shape))


def padding() -> jax.Array:
    return jnp.asarray(row.padding(B, L))


def norm(x, p, epsilon: float = 1e-6):
    return (x - x.mean()) / np.sqrt(x.var() + epsilon) * p["scale"] + p["bias"]


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attend(x, mask, p, causal: bool):
    """Attention of one example, "L D", one query, head and key at a time."""

    def project(name):
        return np.einsum("LD,DHK->LHK", x, p[name]["kernel"]) + p[name]["bias"]

    query, key, value = project("query"), project("key"), project("value")
    out = np.zeros_like(query)
    for i in range(len(x)):
        for h in range(HEADS):
            keys = [j for j in range(len(x)) if mask[j] and (j <= i or not causal)] or range(len(x))
            weight = np.exp([query[i, h] @ key[j, h] / np.sqrt(D / HEADS) for j in keys])
            out[i, h] = sum(w * value[j, h] for w, j in zip(weight / weight.sum(), keys, strict=True))
    return np.einsum("LHK,HKD->LD", out, p["out"]["kernel"]) + p["out"]["bias"]


def loop_block(x, mask, p, norm_first: bool, causal: bool):
    def mlp(x):
        hidden = gelu_tanh(x @ p["mlp"]["up"]["kernel"] + p["mlp"]["up"]["bias"])
        return hidden @ p["mlp"]["down"]["kernel"] + p["mlp"]["down"]["bias"]

    def each(name, x):
        return np.stack([norm(row, p[name]) for row in x])

    if norm_first:
        x = x + attend(each("attention_norm", x), mask, p["attention"], causal)
        return x + mlp(each("mlp_norm", x))
    x = each("attention_norm", x + attend(x, mask, p["attention"], causal))
    return each("mlp_norm", x + mlp(x))


@pytest.mark.parametrize("kind, causal", [("pre", False), ("post", False), ("pre", True)])
def test_transformer(kind, causal):
    trunk = layers.Transformer(**TRUNK, norm=kind, causal=causal, scan=False)
    x, mask = normal(B, L, D), padding()
    params = random_parameters(trunk, x, mask)
    found = jax.jit(trunk.apply)({"params": params}, x, mask)
    exact = jax.tree.map(np.float64, params)
    for i in range(B - 1):  # the last example is missing
        expected = np.float64(x[i])
        for layer in ("layer_0", "layer_1"):
            expected = loop_block(expected, mask[i], exact[layer], kind == "pre", causal)
        if kind == "pre":
            expected = np.stack([norm(row, exact["final_norm"]) for row in expected])
        np.testing.assert_allclose(found[i][mask[i]], expected[mask[i]], rtol=STACK, atol=STACK)


def test_scan_and_remat_compute_the_same():
    x, mask = normal(B, L, D), padding()
    unrolled = random_parameters(layers.Transformer(**TRUNK, scan=False), x, mask)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), unrolled["layer_0"], unrolled["layer_1"])
    scanned = {"layers": stacked, "final_norm": unrolled["final_norm"]}

    def run(params, **fields):
        def loss(params, x):
            out = layers.Transformer(**TRUNK, **fields).apply({"params": params}, x, mask)
            return jnp.where(mask[..., None], out, 0).std(), out

        (_, out), grad = jax.jit(jax.value_and_grad(loss, argnums=1, has_aux=True))(params, x)
        return out, grad

    expected = run(unrolled, scan=False)
    for found in (run(scanned), run(scanned, remat="full"), run(unrolled, scan=False, remat="dots")):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=STACK, atol=STACK), found, expected)


@pytest.mark.parametrize("causal", [True, False])
def test_causal_outputs_do_not_depend_on_later_positions(causal):
    """The gradient with respect to later positions is exactly zero if causal, and not zero otherwise."""
    trunk = layers.Transformer(**TRUNK, causal=causal)
    x, mask = normal(1, L, D), jnp.ones((1, L), bool)
    params = random_parameters(trunk, x, mask)
    jacobian = jax.jit(jax.jacrev(lambda x: trunk.apply({"params": params}, x, mask)[0].sum(-1) ** 2))(x)[
        :, 0
    ]
    gradient = np.abs(jacobian).max(-1)  # output position, input position
    assert (gradient[np.tril_indices(L)] > 0).all()
    assert (gradient[np.triu_indices(L, 1)] == 0).all() == causal
    assert causal or (gradient > 0).all()


def test_dropout_is_applied_only_in_training():
    trunk = layers.Transformer(**TRUNK, dropout=0.5)
    x, mask = normal(B, L, D), padding()
    params = random_parameters(trunk, x, mask)

    @functools.partial(jax.jit, static_argnums=0)
    def run(train, key):
        return trunk.apply({"params": params}, x, mask, train, rngs={"dropout": key})

    keys = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(run(False, keys[0]), run(False, keys[1]))
    assert not np.array_equal(run(True, keys[0]), run(True, keys[1]))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("gelu", [-0.15865525, 0, 0.84134475]),  # x times the normal distribution's P(X <= x)
        ("gelu_tanh", [-0.15880801, 0, 0.84119199]),
        ("quick_gelu", [-1 / (1 + np.exp(1.702)), 0, 1 / (1 + np.exp(-1.702))]),
        ("relu", [0, 0, 1]),
    ],
)
def test_activations(name, expected):
    np.testing.assert_allclose(
        layers.ACTIVATIONS[name](jnp.array([-1.0, 0, 1])), expected, rtol=MODULE, atol=1e-7
    )


def test_einsum():
    module = layers.Einsum("B L H K, H K D -> B L D", (2, 3, 4), ("heads", "head_width", "embed"))
    x = normal(B, L, 2, 3)
    params = random_parameters(module, x)
    expected = np.einsum("blhk,hkd->bld", x, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, rtol=MODULE, atol=MODULE)


@pytest.mark.parametrize("use_bias", [True, False])
def test_stacked_projection_equals_separate_projections(use_bias):
    class Projections(nn.Module):
        stacked: bool

        @nn.compact
        def __call__(self, x):
            names = ("first", "second", "third")
            equation, axes = "B L D, D H K -> B L H K", ("embed", "heads", "head_width")
            projections = [layers.Einsum(equation, (4, 2, 3), axes, use_bias, name=name) for name in names]
            return layers.stacked_projection(projections, x) if self.stacked else [p(x) for p in projections]

    x = normal(B, L, 4)
    params = random_parameters(Projections(False), x)
    expected = Projections(False).apply({"params": params}, x)
    for found, separate in zip(Projections(True).apply({"params": params}, x), expected, strict=True):
        np.testing.assert_allclose(found, separate, rtol=MODULE, atol=MODULE)


def test_kernels_are_initialised_with_variance_one_over_fan_in():
    module = layers.Einsum("B L D, D H K -> B L H K", (64, 8, 32), ("embed", "heads", "head_width"))
    kernel = jax.jit(module.init)(jax.random.key(0), normal(1, 1, 64))["params"]["kernel"].unbox()
    np.testing.assert_allclose(kernel.std(), 64**-0.5, rtol=0.05)


@pytest.mark.parametrize("kernel_size, stride", [(3, 1), (3, 2), (5, 2), (2, 3)])
@pytest.mark.parametrize("length", [7, 8])
def test_convolutions_equal_xlas_with_same_padding(kernel_size, stride, length):
    x = normal(B, length, 6, 2)
    module = layers.Conv2d(4, kernel_size, stride)
    params = random_parameters(module, x)
    kernel = (
        params["kernel"]["kernel"].reshape(kernel_size, kernel_size, 2, 4).swapaxes(0, 1)
    )  # the second axis varies slowest
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    bias = params["kernel"]["bias"][None, None, None]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected + bias, rtol=STACK, atol=MODULE)

    sequence = x[:, :, 0]
    module = layers.Conv1d(4, kernel_size, stride)
    params = random_parameters(module, sequence)
    kernel = params["kernel"]["kernel"].reshape(kernel_size, 2, 4)
    expected = jax.lax.conv_general_dilated(
        sequence, kernel, (stride,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
    )
    bias = params["kernel"]["bias"][None, None]
    np.testing.assert_allclose(
        module.apply({"params": params}, sequence), expected + bias, rtol=STACK, atol=MODULE
    )


def test_image_patches_are_in_reading_order():
    pixels = normal(1, 4, 6, 3)
    patches = encoders.image.split_patches(jnp.asarray(pixels), (2, 3))
    assert patches.shape == (1, 4, 2, 3, 3)
    for i, (top, left) in enumerate(((0, 0), (0, 3), (2, 0), (2, 3))):
        np.testing.assert_array_equal(patches[0, i], pixels[0, top : top + 2, left : left + 3])
    with pytest.raises(
        ValueError, match=r"image of \(4, 6\) pixels does not divide into patches of \(3, 3\)"
    ):
        encoders.image.split_patches(jnp.asarray(pixels), (3, 3))


def test_spectrogram_patches_are_ordered_by_time():
    mask = jnp.arange(7)[None] < 3
    mel = normal(1, 7, 4) * np.asarray(mask)[..., None]
    module = encoders.FramePatches(frames=2, mels=2)
    params = random_parameters(module, mel, mask, 5)
    x, found_mask = module.apply({"params": params}, mel, mask, 5)
    # Seven frames have four patches. A patch with one valid frame is valid.
    np.testing.assert_array_equal(found_mask, [[True] * 4 + [False] * 4])
    for i, (frame, low) in enumerate((t, m) for t in (0, 2, 4) for m in (0, 2)):
        patch = mel[0, frame : frame + 2, low : low + 2].reshape(-1)
        expected = patch @ params["linear"]["kernel"] + params["linear"]["bias"]
        np.testing.assert_allclose(x[0, i], expected, rtol=STACK, atol=MODULE)
    with pytest.raises(ValueError, match="4 mels do not divide into patches of 3"):
        encoders.FramePatches(frames=2, mels=3).init(jax.random.key(0), mel, mask, 5)


def test_sinusoids():
    found = sinusoids(6, 8, max_period=100.0)
    for position in range(6):
        for i in range(4):
            angle = position / 100.0 ** (2 * i / 8)
            np.testing.assert_allclose(found[position, [i, 4 + i]], [np.sin(angle), np.cos(angle)], atol=1e-6)


def test_learned_positions():
    module, x = layers.LearnedPositions(L + 2), normal(B, L, D)
    params = random_parameters(module, x)
    np.testing.assert_array_equal(module.apply({"params": params}, x), x + params["table"][None, :L])
    with pytest.raises(ValueError, match="the input has 9 positions, and the table of positions has 7"):
        module.apply({"params": params}, normal(B, 9, D))


def test_hashes_of_ngrams():
    tokens = np.random.default_rng(0).integers(0, 1000, (4, 9)).astype(np.int32)
    found = hash_ngram(jnp.asarray(tokens), 3, 64)
    for i in range(4):
        for end in range(9):
            value = 0
            for position in (end - 2, end - 1, end):
                token = int(tokens[i, position]) if position >= 0 else 0
                value = ((value ^ token) * 16_777_619 + 3) % 2**32
            assert found[i, end] == (value ^ value >> 15) % 64


def test_hashes_spread_over_all_buckets():
    pairs = jnp.stack(jnp.meshgrid(jnp.arange(100), jnp.arange(100)), -1).reshape(-1, 2)
    counts = np.bincount(hash_ngram(pairs, 2, 100)[:, 1], minlength=100)
    assert counts.min() > 40 and counts.max() < 200  # 100 on average


def test_invalid_widths_are_refused():
    x, key = normal(B, L, D), jax.random.key(0)
    with pytest.raises(ValueError, match="width 8 is not divisible by num_heads 3"):
        layers.MultiHeadAttention(num_heads=3).init(key, x, x, padding())
    with pytest.raises(ValueError, match="the trunk has width 16, and its input has width 8"):
        layers.Transformer(**TRUNK | {"width": 16}).init(key, x, padding())
