"""The length of the padding changes no valid output of an encoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog import row
from catalog.row import random_parameters

from mmjax import encoders, layers
from mmjax.batch import Audio, Patches, Text, Video
from mmjax.testing import TOLERANCE

STACK = TOLERANCE["fp32_stack"]
MEL = encoders.LogMel(sample_rate_hz=8000, num_mels=8)
NUM_VALID = (1130, 400)  # samples: no multiple of a hop or of a stride


def audio(padded: int) -> Audio:
    samples = np.zeros((2, padded), np.float32)
    mask = np.arange(padded)[None] < np.array(NUM_VALID)[:, None]
    samples[:, : max(NUM_VALID)] = row.normal(2, max(NUM_VALID))
    return Audio(jnp.asarray(samples * mask), jnp.asarray(mask))


def text(padded: int) -> Text:
    mask = np.arange(padded)[None] < np.array([[7], [4]])
    tokens = np.zeros((2, padded), np.int32)
    tokens[:, :7] = np.arange(5, 19).reshape(2, 7)
    zeros = np.zeros((2, padded), np.int32)
    return Text(jnp.asarray(tokens * mask), jnp.asarray(mask), jnp.asarray(zeros), jnp.asarray(zeros - 1))


def patches(padded: int) -> Patches:
    mask = np.arange(padded)[None] < np.array([[6], [4]])
    values = np.zeros((2, padded, 12), np.float32)
    values[:, :6] = row.normal(2, 6, 12)
    rows, columns = (np.broadcast_to(x, mask.shape) * mask for x in np.divmod(np.arange(padded), 2))
    return Patches(
        jnp.asarray(values), *(jnp.asarray(x, jnp.int32) for x in (rows, columns)), jnp.asarray(mask)
    )


def video(padded: int) -> Video:
    mask = np.arange(padded)[None] < np.array([[4], [2]])
    frames = np.zeros((2, padded, 8, 8, 3), np.float32)
    frames[:, :4] = row.normal(2, 4, 8, 8, 3)
    return Video(jnp.asarray(frames), jnp.asarray(mask))


def spectrogram(stem) -> encoders.SpectrogramTransformer:
    return encoders.SpectrogramTransformer(MEL, stem, row.trunk())


CNN = encoders.ConvSpectrogram((4, 8))
WAVEFORM = encoders.ConvWaveform(channels=8, kernel_sizes=(10, 5, 3), strides=(5, 4, 3))
VIT = encoders.ViT(encoders.LinearPatches((4, 4)), row.trunk())
GAN = encoders.AdversarialSpectrogram(MEL, encoders.SpectrogramGenerator((4, 2)), CNN, 16, noise_dim=4)
TUBELETS = encoders.Tubelets(2, (4, 4))
TEXT = {"hash_ngrams": (2,), "hash_buckets": 8}
# An encoder, its input for a padded length, and padded lengths, of which the first has no padding.
ENCODERS = {
    "FramePatches": (spectrogram(encoders.FramePatches(4)), audio, (1130, 1137, 2001)),
    "FramePatches of mels": (spectrogram(encoders.FramePatches(3, mels=4)), audio, (1130, 1600)),
    "ConvFrames": (spectrogram(encoders.ConvFrames()), audio, (1130, 1280, 1603)),
    "ConvFrames of stride 3": (spectrogram(encoders.ConvFrames(2, 4, 3)), audio, (1130, 1200, 1601)),
    "ConvSpectrogram": (encoders.SpectrogramCNN(MEL, CNN, 16), audio, (1130, 1280, 1603)),
    "AdversarialSpectrogram": (GAN, audio, (1130, 1603)),
    "ConvWaveform": (encoders.WaveformTransformer(WAVEFORM, row.trunk()), audio, (1130, 1133, 1601)),
    "RecurrentText": (encoders.RecurrentText(32, layers.Recurrent(depth=1, width=16)), text, (7, 9)),
    "TextTransformer": (encoders.TextTransformer(32, row.trunk(), **TEXT), text, (7, 16)),
    "NaViT": (encoders.NaViT(row.trunk()), patches, (6, 9)),
    "FactorisedVideo": (encoders.FactorisedVideo(VIT, row.trunk()), video, (4, 7)),
    "TubeletTransformer": (encoders.TubeletTransformer(TUBELETS, row.trunk()), video, (4, 8)),
}  # fmt: skip


def encode(encoder, params, stream):
    """Encodes with the first rows of tables of positions that are longer than the stream."""
    shapes = jax.eval_shape(lambda: nn.meta.unbox(encoder.init(jax.random.key(0), stream))["params"])
    params = jax.tree.map(lambda x, shape: x[tuple(slice(n) for n in shape.shape)], params, shapes)
    return jax.jit(lambda params, stream: encoder.apply({"params": params}, stream))(params, stream)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_length_of_the_padding_changes_no_valid_output(name):
    encoder, make, lengths = ENCODERS[name]
    params = random_parameters(encoder, make(lengths[-1]))
    expected = encode(encoder, params, make(lengths[0]))
    for length in lengths[1:]:
        found = encode(encoder, params, make(length))
        num_tokens = expected.mask.shape[1]
        np.testing.assert_array_equal(found.mask[:, :num_tokens], expected.mask, err_msg=str(length))
        assert not found.mask[:, num_tokens:].any()
        valid = np.asarray(expected.mask)
        np.testing.assert_allclose(
            np.asarray(found.embeddings)[:, :num_tokens][valid],
            np.asarray(expected.embeddings)[valid],
            rtol=STACK, atol=STACK, err_msg=str(length),
        )  # fmt: skip
