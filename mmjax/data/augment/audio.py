"""Noise and speed. Gain and shift are fields of AudioTransform; SpecAugment belongs to the encoder."""

import abc
import dataclasses

import numpy as np

from mmjax.data.augment.base import Augmentation
from mmjax.data.sources.base import Reader, Source, threadsafe_cache
from mmjax.data.transform import Transform
from mmjax.errors import InputError
from mmjax.ranges import Finite, Fraction, Positive


class AudioAugmentation(Augmentation):
    """Augments a recording before AudioTransform shifts and cuts it."""

    @abc.abstractmethod
    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float32 "samples" -> float32 "samples"; the length may change."""

    def input_ratio(self) -> float:
        """The maximum number of input seconds per output second."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class Noise(AudioAugmentation):
    """Adds white noise at a random signal-to-noise ratio from `snr_db`, (min, max) in decibels."""

    snr_db: tuple[Finite, Finite] = (5.0, 30.0)
    probability: Fraction = 0.5

    def __post_init__(self):
        _check_snr("Noise", self.snr_db)

    def changes(self):
        return frozenset({"noise"})

    def __call__(self, samples, rng):
        if rng.random() >= self.probability:
            return samples
        noise = rng.standard_normal(samples.size, np.float32)
        return add_noise(samples, noise, rng.uniform(*self.snr_db))


@dataclasses.dataclass(frozen=True)
class Background(AudioAugmentation):
    """Adds a random part of a random background recording, e.g. from MUSAN (Snyder et al. 2015).

    source: the recordings. If a sampled one is invalid, the example that it is added to is bad.
    transform: an AudioTransform of the example's sample rate. A recording that is too short is repeated.
    snr_db: (min, max) of the signal-to-noise ratio in decibels.
    """

    source: Source
    transform: Transform
    snr_db: tuple[Finite, Finite] = (5.0, 20.0)
    probability: Fraction = 0.5

    def __post_init__(self):
        _check_snr("Background", self.snr_db)

    def changes(self):
        return frozenset({"noise"})

    def __call__(self, samples, rng):
        recordings = _open(self.source.open(), self.transform)
        index, offset, snr_db = int(rng.integers(len(recordings))), rng.random(), rng.uniform(*self.snr_db)
        if rng.random() >= self.probability:
            return samples
        background = recordings[index]
        start = int(offset * max(background.size - samples.size + 1, 1))
        return add_noise(samples, np.resize(background[start:], samples.size), snr_db)


@dataclasses.dataclass(frozen=True)
class Speed(AudioAugmentation):
    """Resamples (by soxr) to play faster or slower, which changes the pitch too (Ko et al. 2015)."""

    min_factor: Positive = 0.9
    max_factor: Positive = 1.1

    def __post_init__(self):
        if self.min_factor > self.max_factor:
            raise InputError(
                f"Speed expects min_factor <= max_factor, found {self.min_factor} and {self.max_factor}"
            )

    def changes(self):
        return frozenset({"speed", "pitch"})

    def input_ratio(self):
        return self.max_factor

    def __call__(self, samples, rng):
        import soxr

        factor = float(rng.uniform(self.min_factor, self.max_factor))
        resampled = soxr.resample(samples, factor, 1.0, quality="LQ")
        return resampled if resampled.size else samples


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Adds noise scaled to the signal-to-noise ratio, "N" each; if either is silent, returns the samples."""
    signal_power, noise_power = float(np.mean(np.square(samples))), float(np.mean(np.square(noise)))
    if not signal_power or not noise_power:
        return samples
    return samples + noise * np.float32(np.sqrt(signal_power / noise_power) * 10.0 ** (-snr_db / 20.0))


def _check_snr(owner: str, snr_db: tuple[float, float]) -> None:
    if snr_db[0] > snr_db[1]:
        raise InputError(f"{owner} expects snr_db (min, max), found {snr_db}")


@threadsafe_cache
def _open(reader: Reader, transform: Transform) -> "_Recordings":
    if not len(reader):
        raise InputError("Background expects recordings, found none in its source")
    return _Recordings(reader, transform)


class _Recordings:
    """Decodes each recording once. Safe among threads: those that race for one write equal values."""

    def __init__(self, reader: Reader, transform: Transform):
        self._reader, self._transform = reader, transform
        self._decoded: list[np.ndarray | None] = [None] * len(reader)

    def __len__(self) -> int:
        return len(self._decoded)

    def __getitem__(self, index: int) -> np.ndarray:
        """float32 "samples"."""
        samples = self._decoded[index]
        if samples is None:
            audio = self._transform.augment(self._transform.decode(self._reader[index]), None)
            samples = self._decoded[index] = audio.samples[audio.mask]  # type: ignore[attr-defined]
        return samples
