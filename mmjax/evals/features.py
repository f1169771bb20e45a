"""Features without training: small images, log-mel spectrograms, hashed character n-grams.

The baselines (baseline.py) compare them, and the previews (previews.py) draw them.
"""

import zlib

import numpy as np

from mmjax.batch import Audio
from mmjax.encoders.spectrogram import mel_filters

NUM_MELS = 40
NUM_SEGMENTS = 24  # of equal duration, over which a spectrogram is averaged
IMAGE_SIDE = 32  # pixels
NGRAM_BUCKETS = 4096


def block_means(values: np.ndarray, num_blocks: int, axis: int) -> np.ndarray:
    """Means over `num_blocks` consecutive blocks of near-equal length along one axis of "...".

    An axis of at most `num_blocks` elements stays as it is.
    """
    length = values.shape[axis]
    if length <= num_blocks:
        return values
    edges = np.arange(num_blocks) * length // num_blocks
    counts = np.diff(np.append(edges, length))
    shape = [1] * values.ndim
    shape[axis] = num_blocks
    return np.add.reduceat(values, edges, axis=axis) / counts.reshape(shape)


def image_features(pixels: np.ndarray) -> np.ndarray:
    """The image "height width channel" shrunk to at most 32 x 32, flat: float32 "F"."""
    small = block_means(block_means(pixels.astype(np.float32), IMAGE_SIDE, 0), IMAGE_SIDE, 1)
    return small.reshape(-1).astype(np.float32)


def log_mel(samples: np.ndarray, sample_rate_hz: int, num_mels: int = NUM_MELS) -> np.ndarray:
    """Log-mel spectrograms: "B samples" -> float32 "B frames num_mels".

    Natural logarithm of the power, at least 1e-6, in Hann windows of 25 ms every 10 ms. It takes a whole
    batch, because the matrix product of a single waveform is too small to be fast.
    """
    window, hop = round(0.025 * sample_rate_hz), round(0.010 * sample_rate_hz)
    samples = np.pad(samples.astype(np.float32), ((0, 0), (0, max(0, window - samples.shape[1]))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window, axis=1)[:, ::hop]
    spectrum = np.fft.rfft(frames * np.hanning(window).astype(np.float32), n=2 * window, axis=-1)
    power = spectrum.real**2 + spectrum.imag**2
    filters = mel_filters(sample_rate_hz, 2 * window, num_mels, 0.0, sample_rate_hz / 2)
    return np.log(np.maximum(power @ filters, 1e-6)).astype(np.float32)


def log_mels_by_row(audio: Audio, sample_rate_hz: int, num_mels: int = NUM_MELS) -> list[np.ndarray]:
    """Each row's log-mel "frames num_mels" without its padding; one frame where the audio is missing."""
    mask = np.asarray(audio.mask)
    log_mels = log_mel(np.asarray(audio.samples) * mask, sample_rate_hz, num_mels)
    ends = np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 0)
    fractions = ends / mask.shape[1]
    return [row[: max(1, round(end * len(row)))] for row, end in zip(log_mels, fractions, strict=True)]


def audio_features(mel: np.ndarray) -> np.ndarray:
    """Means of a log-mel "frames mels" over 24 equal segments, without silence at both ends: float32 "F"."""
    loudness = mel.max(axis=1)
    # Silence is more than 50 dB (11.5 in the natural logarithm of power) below the loudest frame.
    loud = np.flatnonzero(loudness > loudness.max() - 11.5)
    mel = mel[loud[0] : loud[-1] + 1]
    # Frames of a short waveform are repeated.
    indices = np.linspace(0, len(mel), NUM_SEGMENTS, endpoint=False).astype(int)
    segments = mel[indices] if len(mel) < NUM_SEGMENTS else block_means(mel, NUM_SEGMENTS, 0)
    return segments.reshape(-1).astype(np.float32)


def text_features(text: str, lengths: tuple[int, ...] = (2, 3, 4)) -> np.ndarray:
    """Counts of hashed character n-grams of the words, each padded by a space: float32 "4096"."""
    counts = np.zeros(NGRAM_BUCKETS, np.float32)
    for word in text.lower().split():
        padded = f" {word} "
        for length in lengths:
            for start in range(len(padded) - length + 1):
                counts[zlib.crc32(padded[start : start + length].encode()) % NGRAM_BUCKETS] += 1
    return counts
