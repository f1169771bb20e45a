"""One record -> a mono waveform of static length. The encoder makes the spectrogram, on the device."""

import dataclasses
import io
import math
from typing import Any

import numpy as np

from mmjax.batch import Audio
from mmjax.data import augment
from mmjax.data.augment.base import GEOMETRY, check_kind, with_generators, without
from mmjax.data.records import BadExample, Record, lookup, read_each_path
from mmjax.errors import InputError

_FULL_SCALE = 32767.0  # of int16, in which decoded audio is kept: half the memory of float32, below hearing


@dataclasses.dataclass(frozen=True)
class AudioTransform:
    """The first ``seconds`` of a recording, mixed to mono, resampled, padded with masked silence.

    Args:
        field: path to an encoded file (WAV, FLAC, Ogg Vorbis and Opus, MP3, ...) or to an array that has
            the rate ``sample_rate_hz``; or several: training takes a random one, evaluation the first.
        sample_rate_hz: the rate of the result.
        seconds: its duration.
        shift_seconds: training starts up to this much earlier (masked silence) or later.
        gain_db: training makes it up to this much louder or softer.
        optional: a record with none of the paths is an example without this stream.
        augmentations: what else training changes, in this order, before shift, gain and cut.
    """

    field: str | tuple[str, ...]
    sample_rate_hz: int
    seconds: float
    shift_seconds: float = 0.0
    gain_db: float = 0.0
    optional: bool = False
    augmentations: tuple[augment.AudioAugmentation, ...] = ()

    def __post_init__(self):
        check_kind(self.augmentations, augment.AudioAugmentation, "AudioTransform")
        for other in (a.transform for a in self.augmentations if isinstance(a, augment.Background)):
            if not isinstance(other, AudioTransform) or other.sample_rate_hz != self.sample_rate_hz:
                raise InputError(
                    "expected a Background whose transform is an AudioTransform of "
                    f"{self.sample_rate_hz} Hz, found {other}"
                )
        if self.sample_rate_hz <= 0 or self.seconds * self.sample_rate_hz < 1:
            raise InputError(
                f"expected at least one sample, found {self.seconds} s at {self.sample_rate_hz} Hz"
            )
        if self.shift_seconds < 0 or self.gain_db < 0:
            raise InputError(
                f"expected shift and gain >= 0, found {self.shift_seconds} s and {self.gain_db} dB"
            )

    @property
    def num_samples(self) -> int:
        """Length of the result."""
        return round(self.seconds * self.sample_rate_hz)

    def without(self, forbidden: frozenset[str]) -> "AudioTransform":
        """The same without these changes; what was decoded for this one will do."""
        return dataclasses.replace(
            self,
            shift_seconds=0.0 if "shift" in forbidden else self.shift_seconds,
            gain_db=0.0 if "loudness" in forbidden else self.gain_db,
            augmentations=without(self.augmentations, forbidden),
        )

    def geometry(self) -> tuple[Any, ...]:
        """What must be equal in two transforms for equal draws to move both alike."""
        paths = "one path" if isinstance(self.field, str) else self.field
        moving = tuple(a for a in self.augmentations if a.changes() & GEOMETRY)
        return paths, self.seconds, self.shift_seconds, self.gain_db, moving

    def decode(self, record: Record) -> list[np.ndarray]:
        """int16 "samples" for each path that the record has, as long as shift and speed may reach."""
        return list(read_each_path(record, self.field, self._decode))

    def _decode(self, record: Record, path: str) -> np.ndarray:
        key, value = record["__key__"], lookup(record, path)
        reach = self.seconds + self.shift_seconds
        reach *= math.prod(max(augmentation.input_ratio(), 1.0) for augmentation in self.augmentations)
        samples, rate = _read(key, path, value, self.sample_rate_hz, reach)
        if not samples.size:
            raise BadExample(key, f"expected sound in {path!r}, found a recording of zero length")
        if num_bad := samples.size - int(np.isfinite(samples).sum()):
            raise BadExample(key, f"expected finite samples in {path!r}, found {num_bad} NaN or infinite")
        mono = samples.mean(axis=1) if samples.ndim == 2 else samples
        if rate != self.sample_rate_hz:
            mono = _resample(key, path, mono, rate, self.sample_rate_hz)
        mono = mono[: max(round(reach * self.sample_rate_hz), 1)]
        if not mono.size:
            raise BadExample(
                key, f"expected sound in {path!r}, found less than one sample at {self.sample_rate_hz} Hz"
            )
        return np.round(np.clip(mono, -1.0, 1.0) * _FULL_SCALE).astype(np.int16)

    def augment(self, decoded: list[np.ndarray], rng: np.random.Generator | None) -> Audio:
        """Choose, augment, shift, change the gain, cut and pad."""
        clip, start, scale = decoded[0], 0, 1.0 / _FULL_SCALE
        if rng is not None:
            if len(decoded) > 1:
                clip = decoded[int(rng.integers(len(decoded)))]
            if self.shift_seconds:
                start = round(
                    float(rng.uniform(-self.shift_seconds, self.shift_seconds)) * self.sample_rate_hz
                )
            if self.gain_db:
                scale *= 10.0 ** (float(rng.uniform(-self.gain_db, self.gain_db)) / 20.0)
            if self.augmentations:
                clip = clip.astype(np.float32)  # still of full scale: what is added is in proportion
                for augmentation, own in with_generators(self.augmentations, rng):
                    clip = augmentation(clip, own)
            start = min(start, clip.size - 1)  # never shift all of a short clip away
        heard = clip[max(start, 0) :]
        begin = min(max(-start, 0), self.num_samples - 1)
        heard = heard[: self.num_samples - begin]
        samples = np.zeros(self.num_samples, np.float32)
        mask = np.zeros(self.num_samples, bool)
        window = samples[begin : begin + heard.size]
        np.multiply(heard, np.float32(scale), out=window)
        if scale * _FULL_SCALE > 1.0 or clip.dtype != np.int16:
            np.clip(window, -1.0, 1.0, out=window)
        mask[begin : begin + heard.size] = True
        return Audio(samples, mask)

    def empty(self) -> Audio:
        """No sound."""
        return Audio(np.zeros(self.num_samples, np.float32), np.zeros(self.num_samples, bool))


def _resample(key: str, path: str, mono: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    import soxr

    try:
        return soxr.resample(mono, rate, wanted, quality="HQ")
    except (ValueError, RuntimeError) as error:
        raise BadExample(
            key, f"expected a sample rate in {path!r} that goes to {wanted} Hz, found {rate} Hz: {error}"
        ) from error


def _read(key: str, path: str, value: Any, array_rate_hz: int, seconds: float) -> tuple[np.ndarray, int]:
    """float32 "samples" or "samples channel", and the rate; of a long file only ``seconds`` are decoded."""
    if isinstance(value, np.ndarray):
        if value.ndim not in (1, 2) or value.dtype.kind not in "fi":
            found = f"{value.dtype} {value.shape}"
            raise BadExample(
                key, f"expected an array of samples, or samples x channels, in {path!r}, found {found}"
            )
        scale = 1.0 / np.iinfo(value.dtype).max if value.dtype.kind == "i" else 1.0
        return value.astype(np.float32) * np.float32(scale), array_rate_hz
    if not isinstance(value, bytes):
        raise BadExample(key, f"expected an encoded recording in {path!r}, found a {type(value).__name__}")
    if not value:
        raise BadExample(key, f"expected sound in {path!r}, found a file of zero length")
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(value)) as file:
            # A little more than is kept: the resampler looks ahead of the last sample.
            frames = math.ceil((seconds + 0.1) * file.samplerate)
            return file.read(frames, dtype="float32", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise BadExample(
            key, f"expected a recording in {path!r} that libsndfile can decode, found {error}"
        ) from error
