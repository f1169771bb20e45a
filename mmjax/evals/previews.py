"""Previews of single examples for the pictures: small images, spectrograms or words, with a caption."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mmjax.batch import Audio, Image, Patches, Stream, Text, Video
from mmjax.evals import features

MAX_SIDE = 128  # pixels
MAX_FRAMES = 160  # of a spectrogram


@dataclasses.dataclass(frozen=True)
class Preview:
    """One stream of one example, ready to draw.

    caption: the record's own text; of a text, what is drawn.
    values: an image is uint8 "height width [3]", a spectrogram decibels "frames mels", a text has none.
    key: the record's key.
    """

    kind: Literal["text", "image", "audio"]
    caption: str
    values: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    key: str = ""


def decode_texts(stream: Text, transform: Any) -> list[str]:
    """The text of each row, decoded by the transform's tokenizer; "" where it is missing."""
    tokenizer = transform.tokenizer.open()
    rows = zip(np.asarray(stream.tokens), np.asarray(stream.words), strict=True)
    return [_join_punctuation(tokenizer.decode(tokens[words >= 0].tolist())) for tokens, words in rows]


def _join_punctuation(text: str) -> str:
    """Removes the spaces that tokenizers put around punctuation: "flag : u . s ." -> "flag: u. s."."""
    text = re.sub(r" ([’'\-]) ", r"\1", text)
    return re.sub(r"([(“]) ", r"\1", re.sub(r" ([,.:;!?)”])", r"\1", text))


def make_previews(
    stream: Stream, transform: Any, captions: Sequence[str], keys: Sequence[str] = ()
) -> list[Preview]:
    """A preview of every row of a batch's stream, missing rows included.

    Args:
      captions: a text for each row; of a Text, the record's own, since tokens may be unknown or cut off.
      keys: the records' keys.
    """
    previews = _make_previews(stream, transform, captions)
    return (
        [dataclasses.replace(p, key=key) for p, key in zip(previews, keys, strict=True)] if keys else previews
    )


def _make_previews(stream: Stream, transform: Any, captions: Sequence[str]) -> list[Preview]:
    match stream:
        case Text():
            return [Preview("text", text) for text in captions]
        case Image(pixels=pixels):
            images = [_small_image(row, transform) for row in np.asarray(pixels)]
            return [Preview("image", *item) for item in zip(captions, images, strict=True)]
        case Audio():
            log_mels = features.log_mels_by_row(stream, transform.sample_rate_hz, num_mels=64)
            spectrograms = [_small_spectrogram(log_mel) for log_mel in log_mels]
            return [Preview("audio", *item) for item in zip(captions, spectrograms, strict=True)]
        case Patches() | Video():
            return _make_previews(*transform.to_images(stream), captions)
        case _:
            raise TypeError(f"expected a Text, Image, Patches, Video or Audio, found {type(stream).__name__}")


def _small_image(pixels: np.ndarray, transform: Any) -> np.ndarray:
    """Undoes the normalisation, so that the colours are those of the file; uint8 saves memory."""
    if transform.subtract_mean_tile is None:
        pixels = pixels * np.asarray(transform.std) + np.asarray(transform.mean)
    else:  # the subtracted mean is unknown: scale the rest to [0, 1]
        pixels = (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-6)
    scale = min(1, MAX_SIDE / max(pixels.shape[:2]))  # the same for both sides, to keep the aspect ratio
    for axis in (0, 1):
        pixels = features.block_means(pixels, max(1, round(pixels.shape[axis] * scale)), axis)
    small = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return small[..., 0] if small.shape[-1] == 1 else small


def _small_spectrogram(log_mel: np.ndarray) -> np.ndarray:
    """Decibels, clipped at 60 below the loudest."""
    decibels = log_mel * (10 / np.log(10))
    return features.block_means(np.maximum(decibels, decibels.max() - 60), MAX_FRAMES, 0).astype(np.float32)
