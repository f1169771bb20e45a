"""What a person is shown of one example: small pixels, a spectrogram, or words, with a caption."""

import dataclasses
import re
from typing import Any

import numpy as np

from mmjax.batch import Audio, Image, Patches, Stream, Text, Video
from mmjax.evals import features

THUMBNAIL_SIDE = 128  # pixels


@dataclasses.dataclass(frozen=True)
class Preview:
    """One example, ready to draw."""

    kind: str  # "text", "image" or "audio"
    caption: str
    # image: uint8 "height width [3]"; audio: decibels "frames mels"; text: nothing
    values: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))


def decode_texts(stream: Text, transform: Any) -> list[str]:
    """What the model reads, by the transform's own tokenizer: a row each, "" where the text is missing."""
    tokenizer = transform.tokenizer.open()
    rows = zip(np.asarray(stream.tokens), np.asarray(stream.words), strict=True)
    return [_close_up(tokenizer.decode(tokens[words >= 0].tolist())) for tokens, words in rows]


def _close_up(text: str) -> str:
    """Punctuation back to its words, from which tokenizers part it: "flag : u . s ." -> "flag: u. s."."""
    text = re.sub(r" ([’'\-]) ", r"\1", text)
    return re.sub(r"([(“]) ", r"\1", re.sub(r" ([,.:;!?)”])", r"\1", text))


def cards(stream: Stream, transform: Any, captions: list[str]) -> list[Preview]:
    """A card for every row of a batch's stream; missing rows get one too, and nobody looks at them."""
    match stream:
        case Text():
            return [Preview("text", text) for text in decode_texts(stream, transform)]
        case Image(pixels=pixels):
            shown = [_thumbnail(row, transform) for row in np.asarray(pixels)]
            return [
                Preview("image", caption, values) for caption, values in zip(captions, shown, strict=True)
            ]
        case Audio():
            mels = features.clips(stream, transform.sample_rate_hz, num_mels=64)
            return [
                Preview("audio", caption, _spectrogram(mel))
                for caption, mel in zip(captions, mels, strict=True)
            ]
        case Patches() | Video():
            return cards(*transform.to_images(stream), captions)
        case _:
            raise TypeError(f"expected a Text, Image, Patches, Video or Audio, found {type(stream).__name__}")


def _thumbnail(pixels: np.ndarray, transform: Any) -> np.ndarray:
    """Undoes the normalisation, so that colours are the picture's own; uint8 keeps a gallery small."""
    if transform.subtract_mean_tile is None:
        pixels = pixels * np.asarray(transform.std) + np.asarray(transform.mean)
    else:  # the mean is gone: stretch what is left
        pixels = (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-6)
    shrink = min(1, THUMBNAIL_SIDE / max(pixels.shape[:2]))  # one for both sides, to keep the proportions
    for axis in (0, 1):
        pixels = features.block_means(pixels, max(1, round(pixels.shape[axis] * shrink)), axis)
    small = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return small[..., 0] if small.shape[-1] == 1 else small


def _spectrogram(mel: np.ndarray) -> np.ndarray:
    """Decibels, those more than 60 below the loudest cut off; at most 160 frames."""
    decibels = mel * (10 / np.log(10))
    return features.block_means(np.maximum(decibels, decibels.max() - 60), 160, 0).astype(np.float32)
