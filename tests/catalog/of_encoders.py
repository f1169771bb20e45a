"""Rows of mmjax.encoders."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from catalog.row import (
    B,
    D,
    Row,
    batch,
    keep_positions,
    keep_unmasked,
    normal,
    padding,
    scramble_input,
    trunk,
)
from mmjax import encoders, layers
from mmjax.batch import AdversarialEncoded, Audio, Image, Patches, Text, Video
from mmjax.testing import TOLERANCE, VOCAB


def row(name: str, make: Callable, inputs: Callable, **fields) -> Row:
    return Row(f"encoders.{name}", make, inputs, **{"tolerance": TOLERANCE["fp32_stack"]} | fields)


def encoder(name: str, make: Callable, stream: str, **fields) -> Row:
    return row(name, make, lambda: (batch()[stream],), **fields)


def spectrogram(stem: Callable) -> Callable:
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=8)
    return lambda dtype: encoders.SpectrogramTransformer(mel=mel, stem=stem(dtype), trunk=trunk(dtype))


def image_stem(name: str, make: Callable) -> Row:
    inputs = (normal(B, 8, 12, 3),)
    return Row(f"encoders.{name}", make, lambda: inputs, {"width": D}, scramble=None)


def audio_stem(name: str, make: Callable) -> Row:
    """A row that is not scrambled: LogMel zeroes masked frames, which the rows of whole encoders test."""
    inputs = (normal(B, 8, 6), padding(length=8))
    return Row(f"encoders.{name}", make, lambda: inputs, {"width": D}, scramble=None)


def vit(dtype: str) -> encoders.ViT:
    return encoders.ViT(encoders.LinearPatches((4, 4), dtype=dtype), trunk(dtype), num_registers=2)


def some_visible(stream: str, num_patches: int) -> tuple[Image | Audio]:
    """Half of the patches of each example, in random order."""
    rng = np.random.default_rng(0)
    visible = np.stack([rng.permutation(num_patches)[: num_patches // 2] for _ in range(B)])
    return (batch()[stream].replace(visible=visible.astype(np.int32)),)


def visible_row(name: str, make: Callable, stream: str, num_patches: int) -> Row:
    return row(name, make, functools.partial(some_visible, stream, num_patches))


def masked_audio(dtype: str) -> encoders.SpectrogramTransformer:
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=8)
    stem = encoders.FramePatches(2, mels=4, dtype=dtype)
    return encoders.SpectrogramTransformer(mel=mel, stem=stem, trunk=trunk(dtype), mask_token=True)


def ast_stem(dtype: str) -> encoders.FramePatches:
    return encoders.FramePatches(2, mels=3, strides=(1, 2), order="mel", dtype=dtype)


def ast(dtype: str) -> encoders.SpectrogramTransformer:
    """Overlapping patches behind two class tokens; frames beyond the clip are valid."""
    mel = encoders.LogMel(
        sample_rate_hz=8000, num_mels=8, frames="kaldi", scaling="fixed", mean=-4.0, clip_seconds=0.1
    )
    return encoders.SpectrogramTransformer(
        mel=mel, stem=ast_stem(dtype), trunk=trunk(dtype), num_class_tokens=2
    )


def whisper_stem(dtype: str) -> encoders.ConvFrames:
    return encoders.ConvFrames(
        kernel_size=3, strides=(1, 2), padding="centred", activation="gelu", dtype=dtype
    )


def whisper(dtype: str) -> encoders.SpectrogramTransformer:
    """A clip that is padded with valid silence, and more positions than it needs."""
    mel = encoders.LogMel(sample_rate_hz=8000, num_mels=8, frames="reflected", clip_seconds=0.2)
    return encoders.SpectrogramTransformer(
        mel=mel, stem=whisper_stem(dtype), trunk=trunk(dtype, key_bias=False), max_length=12
    )


def text_embeddings(dtype: str) -> encoders.TextTransformer:
    identity = layers.Identity(D, dtype=dtype)
    return encoders.TextTransformer(VOCAB, identity, max_length=8, embedding_norm=True)


def text_transformer(dtype: str) -> encoders.TextTransformer:
    return encoders.TextTransformer(VOCAB, trunk(dtype), max_length=8, hash_ngrams=(2, 3), hash_buckets=64)


def class_token(dtype: str) -> encoders.TextTransformer:
    causal = trunk(dtype, causal=True, final_norm=False)
    return encoders.TextTransformer(VOCAB, causal, max_length=9, class_token=True)


def pooled_by_queries(dtype: str) -> encoders.PooledByQueries:
    return encoders.PooledByQueries(vit(dtype), width=8, num_queries=3, num_heads=2, dtype=dtype)


def two_sentences() -> tuple[Text]:
    """Two sentences with padding between them, so that an n-gram of the second spans padding."""
    text = batch()["text"]
    return (text.replace(mask=text.mask & ~np.isin(np.arange(8), (2, 3))[None]),)


def prefixed_text() -> tuple[Text]:
    """A prefix with bidirectional attention, then text with causal attention."""
    text = batch()["text"]
    return (text.replace(prefix=text.mask & (np.arange(8) < 3)[None]),)


def recurrent_text(dtype: str) -> encoders.RecurrentText:
    return encoders.RecurrentText(VOCAB, layers.Recurrent(depth=1, width=D, dtype=dtype))


def resnet(dtype: str) -> encoders.ResNet:
    return encoders.ResNet(stages=(1, 1), width=8, stem="small", num_groups=2, dtype=dtype)


def bottleneck(dtype: str) -> encoders.ResNet:
    return encoders.ResNet(stages=(1,), block="bottleneck", width=4, num_groups=2, dtype=dtype)


def navit(packing: encoders.Packing | None) -> Callable:
    return lambda dtype: encoders.NaViT(trunk(dtype), packing, dtype=dtype)


def patches() -> tuple[Patches]:
    """Images two patches wide."""
    index = np.broadcast_to(np.arange(6, dtype=np.int32), (B, 6))
    return (Patches(normal(B, 6, 12), index // 2, index % 2, padding(length=6)),)


PACKING = encoders.Packing(examples_per_row=2, row_length=12)


def cnn(dtype: str) -> encoders.ConvSpectrogram:
    return encoders.ConvSpectrogram(channels=(4, 8), activation="leaky_relu", dtype=dtype)


def spectrogram_cnn(dtype: str) -> encoders.SpectrogramCNN:
    return encoders.SpectrogramCNN(encoders.LogMel(sample_rate_hz=8000, num_mels=8), cnn(dtype), width=D)


def waveform_stem(dtype: str) -> encoders.ConvWaveform:
    return encoders.ConvWaveform(channels=8, kernel_sizes=(10, 3), strides=(5, 4), dtype=dtype)


def wav2vec2(dtype: str) -> encoders.WaveformTransformer:
    stem = encoders.ConvWaveform(
        channels=8, kernel_sizes=(10, 3), strides=(5, 4), padding="valid", norms="first", use_bias=False,
        activation="gelu", dtype=dtype,
    )  # fmt: skip
    positions = encoders.ConvPositions(kernel_size=3, num_groups=4, dtype=dtype)
    return encoders.WaveformTransformer(
        stem, trunk(dtype), position_convolution=positions, embedding_norm=True, mask_token=True
    )


def adversarial(dtype: str) -> encoders.AdversarialSpectrogram:
    return encoders.AdversarialSpectrogram(
        mel=encoders.LogMel(sample_rate_hz=8000, num_mels=8),
        generator=generator(dtype), discriminator=cnn(dtype), width=D, noise_dim=4,
    )  # fmt: skip


def generator(dtype: str) -> encoders.SpectrogramGenerator:
    return encoders.SpectrogramGenerator(channels=(8, 4), dtype=dtype)


def keep_stem_output(output, inputs):
    """select: the valid positions of a stem's (embeddings, mask)."""
    return jnp.where(output[1][..., None], output[0], 0), output[1]


def keep_adversarial(output: AdversarialEncoded, inputs: tuple):
    """select: the valid positions of the encoding and of both encodings of the generated spectrogram."""
    keep = lambda x: jnp.where(output.mask[..., None], x, 0)  # noqa: E731
    return keep_unmasked(output, inputs), keep(output.for_discriminator), keep(output.for_generator)


def video() -> tuple[Video]:
    return (Video(normal(B, 4, 4, 6, 3), padding(length=4)),)


def factorised(dtype: str) -> encoders.FactorisedVideo:
    space = encoders.ViT(encoders.LinearPatches((2, 3), dtype=dtype), trunk(dtype))
    return encoders.FactorisedVideo(space, trunk(dtype), dtype=dtype)


def tubelet_transformer(dtype: str) -> encoders.TubeletTransformer:
    return encoders.TubeletTransformer(encoders.Tubelets(2, (2, 3), dtype=dtype), trunk(dtype))


ENCODERS = [
    image_stem("ConvNeXtStem", lambda t: encoders.ConvNeXtStem(2, (4, 6), (1, 1), dtype=t)),
    audio_stem("ConvSpectrogram", cnn),
    row(
        "ConvWaveform",
        waveform_stem,
        lambda: (normal(B, 80), padding(length=80)),
        kwargs={"width": D},
        scramble=scramble_input(0, 1),
        select=keep_stem_output,
    ),
    row(
        "SpectrogramGenerator",
        generator,
        lambda: (normal(B, 4),),
        kwargs={"num_frames": 6, "num_mels": 5},
        scramble=None,
    ),
    row(
        "Tubelets",
        lambda t: encoders.Tubelets(2, (2, 3), dtype=t),
        lambda: (normal(B, 4, 4, 6, 3), padding(length=4)),
        kwargs={"width": D},
        scramble=scramble_input(0, 1),
    ),
    encoder("ResNet", resnet, "image"),
    encoder("ResNet.bottleneck", bottleneck, "image"),
    encoder("SpectrogramCNN", spectrogram_cnn, "audio"),
    row("RecurrentText", recurrent_text, two_sentences),
    row("FactorisedVideo", factorised, video),
    row("TubeletTransformer", tubelet_transformer, video),
    row("NaViT", navit(None), patches),
    row("NaViT.packed", navit(PACKING), patches),
    encoder(
        "WaveformTransformer", lambda t: encoders.WaveformTransformer(waveform_stem(t), trunk(t)), "audio"
    ),
    visible_row("WaveformTransformer.wav2vec2", wav2vec2, "audio", 40),
    row(
        "ConvPositions",
        lambda t: encoders.ConvPositions(4, num_groups=2, dtype=t),
        lambda: (normal(B, 6, D), padding()),
        scramble=scramble_input(0, 1),
        select=keep_positions,
    ),
    encoder("AdversarialSpectrogram", adversarial, "audio", select=keep_adversarial),
    image_stem("LinearPatches", lambda t: encoders.LinearPatches((4, 6), dtype=t)),
    image_stem("ConvPatches", lambda t: encoders.ConvPatches((4, 6), channels=(4,), dtype=t)),
    audio_stem("FramePatches", lambda t: encoders.FramePatches(2, mels=3, dtype=t)),
    audio_stem("FramePatches.ast", ast_stem),
    audio_stem("ConvFrames", lambda t: encoders.ConvFrames(dtype=t)),
    audio_stem("ConvFrames.whisper", whisper_stem),
    encoder("PooledByQueries", pooled_by_queries, "image"),
    encoder("TextTransformer.class_token", class_token, "text"),
    encoder("ViT", vit, "image"),
    visible_row("ViT.visible", vit, "image", 4),
    visible_row(
        "ViT.mask_token",
        lambda t: encoders.ViT(encoders.LinearPatches((4, 4), dtype=t), trunk(t), mask_token=True),
        "image",
        4,
    ),
    encoder("SpectrogramTransformer", spectrogram(lambda t: encoders.FramePatches(4, dtype=t)), "audio"),
    visible_row(
        "SpectrogramTransformer.visible",
        spectrogram(lambda t: encoders.FramePatches(2, mels=4, dtype=t)),
        "audio",
        10,
    ),
    visible_row("SpectrogramTransformer.mask_token", masked_audio, "audio", 10),
    encoder("SpectrogramTransformer.conv", spectrogram(lambda t: encoders.ConvFrames(dtype=t)), "audio"),
    row("SpectrogramTransformer.ast", ast, lambda: (batch()["audio"],)),
    row("SpectrogramTransformer.whisper", whisper, lambda: (batch()["audio"],)),
    row("TextTransformer.embeddings", text_embeddings, two_sentences),
    row("TextTransformer", text_transformer, two_sentences),
    row("TextTransformer.prefix", text_transformer, prefixed_text),
]
