"""Noise and speed. Gain and shift are fields of AudioTransform; SpecAugment is the encoder's."""

import abc
import dataclasses
from typing import Any

import numpy as np

from mmjax.data.augment.base import Augmentation, share
from mmjax.data.records import Record
from mmjax.data.sources.base import Reader, Source, threadsafe_cache
from mmjax.data.transform import Transform
from mmjax.errors import InputError


class AudioAugmentation(Augmentation):
    """Acts on a recording before it is shifted and cut."""

    @abc.abstractmethod
    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float32 "samples" -> float32, maybe of another length."""

    @abc.abstractmethod
    def input_ratio(self) -> float:
        """How many seconds it needs to make one."""


@dataclasses.dataclass(frozen=True)
class Noise(AudioAugmentation):
    """White noise, at a ratio of the recording's power to its own between (least, most) decibels."""

    snr_db: tuple[float, float] = (5.0, 30.0)
    probability: float = 0.5

    def __post_init__(self):
        _ratio("Noise", self.snr_db, self.probability)

    def changes(self):
        return frozenset({"noise"})

    def without(self, forbidden):
        return None if "noise" in forbidden else self

    def input_ratio(self):
        return 1.0

    def __call__(self, samples, rng):
        if rng.random() >= self.probability:
            return samples
        return mixed(samples, rng.standard_normal(samples.size, np.float32), rng.uniform(*self.snr_db))


@dataclasses.dataclass(frozen=True)
class Background(AudioAugmentation):
    """A piece of another recording beneath, at a ratio of powers between (least, most) decibels.

    Such noises are often taken from MUSAN (Snyder et al. 2015).

    source: the recordings. A bad one makes the example bad that would hear it.
    transform: an AudioTransform of the example's rate; a recording that is too short is repeated.
    """

    source: Source
    transform: Transform
    snr_db: tuple[float, float] = (5.0, 20.0)
    probability: float = 0.5

    def __post_init__(self):
        _ratio("Background", self.snr_db, self.probability)

    def changes(self):
        return frozenset({"noise"})

    def without(self, forbidden):
        return None if "noise" in forbidden else self

    def input_ratio(self):
        return 1.0

    def __call__(self, samples, rng):
        recordings = _open(self.source.open(), self.transform)
        number, place, ratio = int(rng.integers(len(recordings))), rng.random(), rng.uniform(*self.snr_db)
        if rng.random() >= self.probability:
            return samples
        other = recordings[number]
        start = int(place * max(other.size - samples.size + 1, 1))
        return mixed(samples, np.resize(other[start:], samples.size), ratio)


@dataclasses.dataclass(frozen=True)
class Speed(AudioAugmentation):
    """Played faster or slower, so higher or lower too (Ko et al. 2015), by a factor ``least`` to ``most``.

    Resampled by soxr.
    """

    least: float = 0.9
    most: float = 1.1

    def __post_init__(self):
        if not 0 < self.least <= self.most:
            raise InputError(f"Speed expects 0 < least <= most, found {self.least} and {self.most}")

    def changes(self):
        return frozenset({"speed", "pitch"})

    def without(self, forbidden):
        return None if self.changes() & forbidden else self

    def input_ratio(self):
        return self.most

    def __call__(self, samples, rng):
        import soxr

        factor = float(rng.uniform(self.least, self.most))
        faster = soxr.resample(samples, factor, 1.0, quality="LQ")
        return faster if faster.size else samples


def mixed(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """The sum, with the noise scaled to the ratio of powers; silence, on either side, changes nothing."""
    power, of_noise = float(np.mean(np.square(samples))), float(np.mean(np.square(noise)))
    if not power or not of_noise:
        return samples
    return samples + noise * np.float32(np.sqrt(power / of_noise) * 10.0 ** (-snr_db / 20.0))


def _ratio(owner: str, snr_db: tuple[float, float], probability: float) -> None:
    share(owner, probability=probability)
    if len(snr_db) != 2 or snr_db[0] > snr_db[1]:
        raise InputError(f"{owner} expects snr_db (least, most), found {snr_db}")


@threadsafe_cache
def _open(reader: Reader, transform: Transform) -> "_Recordings":
    if not len(reader):
        raise InputError("Background expects recordings, found none in its source")
    return _Recordings(reader, transform)


class _Recordings:
    """Decoded once each; safe among threads, since two that race write the same."""

    def __init__(self, reader: Reader, transform: Transform):
        self._reader, self._transform = reader, transform
        self._decoded: list[np.ndarray | None] = [None] * len(reader)

    def __len__(self) -> int:
        return len(self._decoded)

    def __getitem__(self, index: int) -> np.ndarray:
        """float32 "samples"."""
        found = self._decoded[index]
        if found is None:
            record: Record = self._reader[index]
            audio: Any = self._transform.augment(self._transform.decode(record), None)
            found = self._decoded[index] = audio.samples[audio.mask]
        return found
