"""Convolutional encoders: equal implementations, published sizes, blocks against their equations."""

import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from catalog import row
from catalog.row import random_parameters

from mmjax import encoders, layers
from mmjax.batch import Audio, Image
from mmjax.encoders.convnext import ConvNeXtBlock
from mmjax.encoders.resnet import ResidualBlock
from mmjax.testing import TOLERANCE
from mmjax.training import flops

MODULE, STACK = TOLERANCE["fp32_module"], TOLERANCE["fp32_stack"]
LAYOUT = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(row.normal(*shape))


def shapes(module, *inputs):
    """Returns the shapes of (parameters, output) without computing them."""
    return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), *inputs))[::-1]


@pytest.mark.parametrize("kernel_size, stride", [(3, 1), (3, 2), (7, 2), (1, 2), (2, 2)])
@pytest.mark.parametrize("height", [7, 8])
def test_both_implementations_of_convolution_agree(kernel_size, stride, height):
    x = normal(2, height, 6, 3)
    windows, xla = (layers.Conv2d(4, kernel_size, stride, implementation=name) for name in ("windows", "xla"))
    params = random_parameters(windows, x)
    expected = windows.apply({"params": params}, x)
    np.testing.assert_allclose(xla.apply({"params": params}, x), expected, rtol=STACK, atol=STACK)


def test_both_implementations_of_convolution_count_the_same_flops():
    x = normal(2, 8, 6, 3)
    counts = []
    for name in ("windows", "xla"):
        module = layers.Conv2d(4, 3, 2, implementation=name)
        params = random_parameters(module, x)
        counts.append(flops.count(lambda x, m=module, p=params: m.apply({"params": p}, x), x))
    assert counts == [2 * (2 * 4 * 3 * 4) * 27] * 2


def test_depthwise_convolution_equals_xlas_grouped_convolution():
    x = normal(2, 5, 6, 3)
    module = layers.DepthwiseConv2d(5)
    params = random_parameters(module, x)
    kernel = params["kernel"][:, :, None]
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", feature_group_count=3, **LAYOUT)
    expected += params["bias"][None, None, None]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, rtol=STACK, atol=STACK)
    with pytest.raises(ValueError, match="a depthwise convolution expects an odd kernel_size, found 4"):
        layers.DepthwiseConv2d(4).init(jax.random.key(0), x)


def loop_group_norm(x, p, groups: int, epsilon: float = 1e-5):
    """Normalises one group of one example at a time."""
    x, out, width = np.asarray(x), np.zeros(x.shape), x.shape[-1] // groups
    for i in range(len(x)):
        for g in range(groups):
            part = np.float64(x[i, ..., g * width : (g + 1) * width])
            out[i, ..., g * width : (g + 1) * width] = (part - part.mean()) / np.sqrt(part.var() + epsilon)
    return out * p["scale"] + p["bias"]


def test_group_norm():
    x = 3 + 2 * normal(2, 4, 5, 6)
    module = layers.GroupNorm(num_groups=3)
    params = random_parameters(module, x)
    found = module.apply({"params": params}, x)
    np.testing.assert_allclose(found, loop_group_norm(x, params, 3), rtol=STACK, atol=MODULE)
    with pytest.raises(ValueError, match="6 channels do not divide into num_groups=4"):
        layers.GroupNorm(num_groups=4).init(jax.random.key(0), x)


@pytest.mark.parametrize(
    "stages, block, published_size, width",
    [
        ((2, 2, 2, 2), "basic", 11.2e6, 512),  # ResNet-18: 11.7 M with the classifier's 0.5 M
        ((3, 4, 6, 3), "bottleneck", 23.5e6, 2048),  # ResNet-50: 25.6 M with 2.0 M
    ],
)
def test_resnets_have_the_published_sizes(stages, block, published_size, width):
    image = Image(jnp.zeros((1, 224, 224, 3)), jnp.ones(1, bool))
    params, encoded = shapes(encoders.ResNet(stages=stages, block=block), image)
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    assert abs(count / published_size - 1) < 0.01, count
    assert encoded.embeddings.shape == (1, 7 * 7, width)


def test_the_small_stem_keeps_the_resolution():
    image = Image(jnp.zeros((1, 32, 32, 3)), jnp.ones(1, bool))
    assert shapes(encoders.ResNet(stem="small"), image)[1].embeddings.shape == (1, 4 * 4, 512)
    assert shapes(encoders.ResNet(), image)[1].embeddings.shape == (1, 1, 512)


@pytest.mark.parametrize("kind, out_width", [("basic", 4), ("bottleneck", 16)])
@pytest.mark.parametrize("stride", [1, 2])
def test_residual_block(kind, out_width, stride):
    x = normal(2, 4, 6, 16)
    module = ResidualBlock(width=4, kind=kind, stride=stride, num_groups=2, dtype="float32")
    params = random_parameters(module, x)

    def conv_norm(x, name, size, stride):
        kernel = params[f"{name}_conv"]["kernel"]["kernel"]
        kernel = kernel.reshape(size, size, x.shape[-1], -1).swapaxes(0, 1)
        x = jax.lax.conv_general_dilated(np.float32(x), kernel, (stride, stride), "SAME", **LAYOUT)
        return loop_group_norm(np.asarray(x), params[f"{name}_norm"], 2)

    def relu(x):
        return np.maximum(x, 0)

    if kind == "basic":
        y = conv_norm(relu(conv_norm(x, "residual_0", 3, stride)), "residual_1", 3, 1)
    else:
        y = relu(conv_norm(x, "residual_0", 1, 1))
        y = conv_norm(relu(conv_norm(y, "residual_1", 3, stride)), "residual_2", 1, 1)
    shortcut = conv_norm(x, "shortcut", 1, stride) if "shortcut_conv" in params else x
    assert ("shortcut_conv" in params) == (stride == 2 or out_width != 16)
    found = module.apply({"params": params}, x)
    np.testing.assert_allclose(found, relu(y + shortcut), rtol=STACK, atol=STACK)


def test_convnext_block():
    x = normal(2, 5, 6, 3)
    module = ConvNeXtBlock(layer_scale_init=1e-6, dtype="float32")
    params = random_parameters(module, x)
    y = layers.DepthwiseConv2d(7).apply({"params": params["depthwise"]}, x)
    y = layers.LayerNorm().apply({"params": params["norm"]}, y)
    y = jax.nn.gelu(y @ params["up"]["kernel"] + params["up"]["bias"][None, None, None])
    y = y @ params["down"]["kernel"] + params["down"]["bias"][None, None, None]
    expected = x + params["scale"][None, None, None] * y
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, rtol=STACK, atol=STACK)


def test_a_patchify_stem_reads_each_patch_alone_unless_it_has_blocks():
    pixels = normal(1, 8, 12, 3)
    for blocks, reads_neighbours in ((0, False), (1, True)):
        stem = encoders.ConvNeXtStem(4, (6,), (blocks,))
        params = random_parameters(stem, pixels, 5)
        assert stem.apply({"params": params}, pixels, 5).shape == (1, 6, 5)

        def first(pixels, stem=stem, params=params):
            return (stem.apply({"params": params}, pixels, 5)[0, 0] ** 2).sum()

        depends = np.abs(jax.jit(jax.grad(first))(pixels)[0]).max(-1) > 0
        assert depends[:4, :4].all() and depends[4:].any() == depends[:, 4:].any() == reads_neighbours


def test_invalid_fields_and_sizes_are_refused(monkeypatch):
    pixels = normal(1, 8, 12, 3)

    def init(stem):
        stem.init(jax.random.key(0), pixels, 5)

    with pytest.raises(ValueError, match=r"\(8, 12\) pixels does not divide into cells of \(8, 8\)"):
        init(encoders.ConvNeXtStem(4, (6, 6), (0, 0)))
    with pytest.raises(ValueError, match=r"blocks for each of channels=\(6, 6\), found \(1,\)"):
        init(encoders.ConvNeXtStem(4, (6, 6), (1,)))
    image = Image(pixels, jnp.ones(1, bool))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in a run
    with pytest.raises(ValueError, match=r"stem expects one of \['large', 'small'\], found 'tiny'"):
        encoders.ResNet(stem="tiny").init(jax.random.key(0), image)
    with pytest.raises(ValueError, match=r"block expects one of \['basic', 'bottleneck'\], found 'wide'"):
        encoders.ResNet(block="wide").init(jax.random.key(0), image)


def clip(num_samples: int, padded: int) -> Audio:
    samples = np.zeros((1, padded), np.float32)
    samples[:, :num_samples] = normal(1, num_samples)
    return Audio(jnp.asarray(samples), jnp.arange(padded)[None] < num_samples)


def audio_encoders() -> dict[str, encoders.Encoder]:
    cnn = encoders.ConvSpectrogram(channels=(4, 8))
    stem = encoders.ConvWaveform(channels=8, kernel_sizes=(10, 5, 5), strides=(5, 4, 4))
    return {
        "spectrogram": encoders.SpectrogramCNN(encoders.LogMel(sample_rate_hz=8000, num_mels=8), cnn, 16),
        "waveform": encoders.WaveformTransformer(stem, row.trunk()),
    }


@pytest.mark.parametrize("name, num_samples, num_tokens", [("spectrogram", 960, 3), ("waveform", 800, 10)])
def test_padding_does_not_change_audio_encodings(name, num_samples, num_tokens):
    """Compares a clip without padding and with 320 samples of it, a whole number of tokens."""
    encoder, short = audio_encoders()[name], clip(num_samples, num_samples)
    long = clip(num_samples, num_samples + 320)
    params = random_parameters(encoder, long)
    short_params = dict(params)
    if name == "waveform":  # its table of positions is as long as the padded clip
        short_params["positions"] = {"table": params["positions"]["table"][:num_tokens]}
    run = jax.jit(lambda params, audio: encoder.apply({"params": params}, audio))
    found, expected = run(params, long), run(short_params, short)
    assert expected.mask.all() and expected.mask.shape == (1, num_tokens) and found.mask.sum() == num_tokens
    np.testing.assert_allclose(found.embeddings[:, :num_tokens], expected.embeddings, rtol=STACK, atol=STACK)


def test_loudness_and_offset_do_not_change_waveform_encodings():
    encoder, audio = audio_encoders()["waveform"], clip(800, 1280)
    params = random_parameters(encoder, audio)
    run = jax.jit(lambda audio: encoder.apply({"params": params}, audio).embeddings)
    louder = audio.replace(samples=3 * audio.samples + 1)
    valid = np.arange(10)
    np.testing.assert_allclose(run(louder)[:, valid], run(audio)[:, valid], rtol=STACK, atol=10 * STACK)
    assert np.isfinite(run(audio.replace(samples=0 * audio.samples))).all()


def test_the_stem_of_wav2vec_has_a_token_for_every_twenty_milliseconds():
    samples, mask = jnp.zeros((1, 16_000)), jnp.ones((1, 16_000), bool)
    params, (x, found) = shapes(encoders.ConvWaveform(), samples, mask, 768)
    assert x.shape == (1, 50, 768) and found.shape == (1, 50)
    kernels = [params["params"][f"conv_{i}"]["kernel"]["kernel"].value.shape for i in range(7)]
    assert kernels == [(10, 512), *[(3 * 512, 512)] * 4, *[(2 * 512, 512)] * 2]
    with pytest.raises(ValueError, match=r"stride for each of kernel_sizes=\(3, 3\), found \(2,\)"):
        encoders.ConvWaveform(8, (3, 3), (2,)).init(jax.random.key(0), samples, mask, 8)
