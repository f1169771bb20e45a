"""Rows of mmjax.encoders."""

import functools
from collections.abc import Callable

import numpy as np

from catalog.row import B, D, Row, batch, normal, padding, trunk
from mmjax import encoders
from mmjax.batch import Audio, Image, Text
from mmjax.testing import TOLERANCE, VOCAB


def encoder(name: str, make: Callable, stream: str) -> Row:
    return Row(f"encoders.{name}", make, lambda: (batch()[stream],), tolerance=TOLERANCE["fp32_stack"])


def spectrogram(stem: Callable) -> Callable:
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=8)
    return lambda dtype: encoders.SpectrogramTransformer(mel=mel, stem=stem(dtype), trunk=trunk(dtype))


def picture_stem(name: str, make: Callable) -> Row:
    inputs = (normal(B, 8, 12, 3),)
    return Row(f"encoders.{name}", make, lambda: inputs, {"width": D}, scramble=None)


def sound_stem(name: str, make: Callable) -> Row:
    """Their spectrogram is zero under its mask: LogMel's promise, which the towers' rows hold it to."""
    inputs = (normal(B, 8, 6), padding(length=8))
    return Row(f"encoders.{name}", make, lambda: inputs, {"width": D}, scramble=None)


def vit(dtype: str) -> encoders.ViT:
    return encoders.ViT(encoders.LinearPatches((4, 4), dtype=dtype), trunk(dtype), num_registers=2)


def some_visible(stream: str, num_patches: int) -> tuple[Image | Audio]:
    """Every second patch, in an order of its own for each row."""
    rng = np.random.default_rng(0)
    visible = np.stack([rng.permutation(num_patches)[: num_patches // 2] for _ in range(B)])
    return (batch()[stream].replace(visible=visible.astype(np.int32)),)


def masked(name: str, make: Callable, stream: str, num_patches: int) -> Row:
    inputs = functools.partial(some_visible, stream, num_patches)
    return Row(f"encoders.{name}", make, inputs, tolerance=TOLERANCE["fp32_stack"])


def masked_sound(dtype: str) -> encoders.SpectrogramTransformer:
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=8)
    stem = encoders.FramePatches(2, mels=4, dtype=dtype)
    return encoders.SpectrogramTransformer(mel=mel, stem=stem, trunk=trunk(dtype), mask_token=True)


def text_transformer(dtype: str) -> encoders.TextTransformer:
    return encoders.TextTransformer(VOCAB, trunk(dtype), max_length=8, hash_ngrams=(2, 3), hash_buckets=64)


def two_sentences() -> tuple[Text]:
    """With padding between them: an n-gram of the second reaches back over it."""
    text = batch()["text"]
    return (text.replace(mask=text.mask & ~np.isin(np.arange(8), (2, 3))[None]),)


def half_given() -> tuple[Text]:
    """A prefix that all may see, then a text that is read causally."""
    text = batch()["text"]
    return (text.replace(prefix=text.mask & (np.arange(8) < 3)[None]),)


ENCODERS = [
    picture_stem("LinearPatches", lambda t: encoders.LinearPatches((4, 6), dtype=t)),
    picture_stem("ConvPatches", lambda t: encoders.ConvPatches((4, 6), channels=(4,), dtype=t)),
    sound_stem("FramePatches", lambda t: encoders.FramePatches(2, mels=3, dtype=t)),
    sound_stem("ConvFrames", lambda t: encoders.ConvFrames(dtype=t)),
    encoder("ViT", vit, "image"),
    masked("ViT.visible", vit, "image", 4),
    masked(
        "ViT.mask_token",
        lambda t: encoders.ViT(encoders.LinearPatches((4, 4), dtype=t), trunk(t), mask_token=True),
        "image",
        4,
    ),
    encoder("SpectrogramTransformer", spectrogram(lambda t: encoders.FramePatches(4, dtype=t)), "audio"),
    masked(
        "SpectrogramTransformer.visible",
        spectrogram(lambda t: encoders.FramePatches(2, mels=4, dtype=t)),
        "audio",
        10,
    ),
    masked("SpectrogramTransformer.mask_token", masked_sound, "audio", 10),
    encoder("SpectrogramTransformer.conv", spectrogram(lambda t: encoders.ConvFrames(dtype=t)), "audio"),
    Row("encoders.TextTransformer", text_transformer, two_sentences, tolerance=TOLERANCE["fp32_stack"]),
    Row("encoders.TextTransformer.prefix", text_transformer, half_given, tolerance=TOLERANCE["fp32_stack"]),
]
