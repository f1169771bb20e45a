"""Raw features that need no learning: small pictures, log-mel spectrograms, hashed character n-grams.

They feed the baselines that stand beside every learned score (and, as thumbnails, the pictures).
"""

import zlib

import numpy as np

from mmjax.batch import Audio
from mmjax.encoders.spectrogram import mel_filters

NUM_MELS = 40
NUM_SEGMENTS = 24  # of equal duration, over which a spectrogram is averaged
PICTURE_SIDE = 32
NGRAM_BUCKETS = 4096


def block_means(values: np.ndarray, num_blocks: int, axis: int) -> np.ndarray:
    """Means over ``num_blocks`` near-equal consecutive blocks of one axis; a shorter axis stays as it is."""
    length = values.shape[axis]
    if length <= num_blocks:
        return values
    edges = np.arange(num_blocks) * length // num_blocks
    counts = np.diff(np.append(edges, length))
    shape = [1] * values.ndim
    shape[axis] = num_blocks
    return np.add.reduceat(values, edges, axis=axis) / counts.reshape(shape)


def picture(pixels: np.ndarray) -> np.ndarray:
    """ "height width channel" -> float32 vector: the picture shrunk to at most 32 x 32."""
    small = block_means(block_means(pixels.astype(np.float32), PICTURE_SIDE, 0), PICTURE_SIDE, 1)
    return small.reshape(-1).astype(np.float32)


def log_mel(samples: np.ndarray, sample_rate_hz: int, num_mels: int = NUM_MELS) -> np.ndarray:
    """ "B samples" -> float32 "B frames num_mels", natural log of power in 25 ms Hann windows every 10 ms.

    The floor is log(1e-6). A batch at once: one clip's is too small a product for BLAS.
    """
    window, hop = round(0.025 * sample_rate_hz), round(0.010 * sample_rate_hz)
    samples = np.pad(samples.astype(np.float32), ((0, 0), (0, max(0, window - samples.shape[1]))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window, axis=1)[:, ::hop]
    spectrum = np.fft.rfft(frames * np.hanning(window).astype(np.float32), n=2 * window, axis=-1)
    power = spectrum.real**2 + spectrum.imag**2
    filters = mel_filters(sample_rate_hz, 2 * window, num_mels, 0.0, sample_rate_hz / 2)
    return np.log(np.maximum(power @ filters, 1e-6)).astype(np.float32)


def clips(audio: Audio, sample_rate_hz: int, num_mels: int = NUM_MELS) -> list[np.ndarray]:
    """Each row's log-mel, "frames num_mels", without its padding; one frame where the row is missing."""
    mask = np.asarray(audio.mask)
    mels = log_mel(np.asarray(audio.samples) * mask, sample_rate_hz, num_mels)
    ends = np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 0)
    shares = ends / mask.shape[1]
    return [mel[: max(1, round(share * len(mel)))] for mel, share in zip(mels, shares, strict=True)]


def sound(mel: np.ndarray) -> np.ndarray:
    """Log-mel "frames mels" -> float32 vector: averages over 24 equal segments of what is not silent."""
    loudness = mel.max(axis=1)
    # Within 50 dB (11.5 in natural log of power) of the loudest frame: leading and trailing silence are cut.
    heard = np.flatnonzero(loudness > loudness.max() - 11.5)
    mel = mel[heard[0] : heard[-1] + 1]
    # A short sound's frames are repeated.
    places = np.linspace(0, len(mel), NUM_SEGMENTS, endpoint=False).astype(int)
    stretched = mel[places] if len(mel) < NUM_SEGMENTS else block_means(mel, NUM_SEGMENTS, 0)
    return stretched.reshape(-1).astype(np.float32)


def ngrams(text: str, lengths: tuple[int, ...] = (2, 3, 4)) -> np.ndarray:
    """Counts of hashed character n-grams of the words, each padded by a space: float32 vector of 4096."""
    counts = np.zeros(NGRAM_BUCKETS, np.float32)
    for word in text.lower().split():
        padded = f" {word} "
        for length in lengths:
            for start in range(len(padded) - length + 1):
                counts[zlib.crc32(padded[start : start + length].encode()) % NGRAM_BUCKETS] += 1
    return counts
