"""One record -> a mono waveform of static length. The encoder computes the spectrogram, on the device."""

import dataclasses
import io
import math
from typing import Any

import numpy as np

from mmjax.batch import Audio
from mmjax.data import augment
from mmjax.data.augment.base import GEOMETRY, check_kind, with_generators, without
from mmjax.data.records import BadExample, Record, lookup, read_each_path
from mmjax.data.transform import Transform, choose
from mmjax.errors import InputError

# Decoded audio is kept as int16: half the memory of float32, with an inaudible rounding error.
_FULL_SCALE = 32767.0


@dataclasses.dataclass(frozen=True)
class AudioTransform(Transform):
    """Decodes the first `seconds` of audio, mixes to mono, resamples, and pads with masked silence.

    field: path to an encoded file (WAV, FLAC, Ogg Vorbis and Opus, MP3, ...) or to an array sampled at
        `sample_rate_hz`. Of several paths, training takes a random one and evaluation the first.
    sample_rate_hz: sample rate of the result.
    seconds: duration of the result.
    shift_seconds: training starts up to this much earlier (masked silence) or later.
    gain_db: training changes the volume by up to this much, up or down.
    optional: the record may lack all paths; the example then lacks this stream.
    augmentations: further augmentations of training, in order, before shift, gain and cut.
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
            found = f"{self.shift_seconds} s and {self.gain_db} dB"
            raise InputError(f"expected shift_seconds and gain_db >= 0, found {found}")

    @property
    def num_samples(self) -> int:
        """Length of the result."""
        return round(self.seconds * self.sample_rate_hz)

    def without(self, forbidden: frozenset[str]) -> "AudioTransform":
        return dataclasses.replace(
            self,
            shift_seconds=0.0 if "shift" in forbidden else self.shift_seconds,
            gain_db=0.0 if "loudness" in forbidden else self.gain_db,
            augmentations=without(self.augmentations, forbidden),
        )

    def geometry(self) -> tuple[Any, ...]:
        """The settings that two transforms must share, so that equal random draws move both alike."""
        paths = "one path" if isinstance(self.field, str) else self.field
        moving = tuple(a for a in self.augmentations if a.changes() & GEOMETRY)
        return paths, self.seconds, self.shift_seconds, self.gain_db, moving

    def decode(self, record: Record) -> list[np.ndarray]:
        """Returns int16 "samples" for each path that the record has, long enough for any shift and speed."""
        return list(read_each_path(record, self.field, self._decode))

    def _decode(self, record: Record, path: str) -> np.ndarray:
        key, value = record["__key__"], lookup(record, path)
        seconds = self.seconds + self.shift_seconds
        seconds *= math.prod(max(augmentation.input_ratio(), 1.0) for augmentation in self.augmentations)
        samples, rate = _read(key, path, value, self.sample_rate_hz, seconds)
        if not samples.size:
            raise BadExample(key, f"expected audio in {path!r}, found no samples")
        if num_bad := samples.size - int(np.isfinite(samples).sum()):
            raise BadExample(key, f"expected finite samples in {path!r}, found {num_bad} NaN or infinite")
        mono = samples.mean(axis=1) if samples.ndim == 2 else samples
        if rate != self.sample_rate_hz:
            mono = _resample(key, path, mono, rate, self.sample_rate_hz)
        mono = mono[: max(round(seconds * self.sample_rate_hz), 1)]
        if not mono.size:
            raise BadExample(
                key, f"expected audio in {path!r}, found less than one sample at {self.sample_rate_hz} Hz"
            )
        return np.round(np.clip(mono, -1.0, 1.0) * _FULL_SCALE).astype(np.int16)

    def augment(self, decoded: list[np.ndarray], rng: np.random.Generator | None) -> Audio:
        clip, start, scale = choose(decoded, rng), 0, 1.0 / _FULL_SCALE
        if rng is not None:
            if self.shift_seconds:
                shift = float(rng.uniform(-self.shift_seconds, self.shift_seconds))
                start = round(shift * self.sample_rate_hz)
            if self.gain_db:
                scale *= 10.0 ** (float(rng.uniform(-self.gain_db, self.gain_db)) / 20.0)
            if self.augmentations:
                clip = clip.astype(np.float32)  # not rescaled: signal-to-noise ratios need no absolute scale
                for augmentation, generator in with_generators(self.augmentations, rng):
                    clip = augmentation(clip, generator)
            start = min(start, clip.size - 1)  # keep at least one sample of a short clip
        clip_part = clip[max(start, 0) :]
        begin = min(max(-start, 0), self.num_samples - 1)
        clip_part = clip_part[: self.num_samples - begin]
        audio = self.empty()
        window = audio.samples[begin : begin + clip_part.size]
        np.multiply(clip_part, np.float32(scale), out=window)
        if scale * _FULL_SCALE > 1.0 or clip.dtype != np.int16:
            np.clip(window, -1.0, 1.0, out=window)
        audio.mask[begin : begin + clip_part.size] = True
        return audio

    def empty(self) -> Audio:
        return Audio(np.zeros(self.num_samples, np.float32), np.zeros(self.num_samples, bool))


def _resample(key: str, path: str, mono: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    import soxr

    try:
        return soxr.resample(mono, rate, target_rate, quality="HQ")
    except (ValueError, RuntimeError) as error:
        expected = f"expected a sample rate in {path!r} that can be converted to {target_rate} Hz"
        raise BadExample(key, f"{expected}, found {rate} Hz: {error}") from error


def _read(key: str, path: str, value: Any, array_rate_hz: int, seconds: float) -> tuple[np.ndarray, int]:
    """Reads float32 "samples" or "samples channel", and the rate; decodes only `seconds` of a long file."""
    if isinstance(value, np.ndarray):
        if value.ndim not in (1, 2) or value.dtype.kind not in "fi":
            found = f"{value.dtype} {value.shape}"
            raise BadExample(
                key, f"expected an array of samples, or samples x channels, in {path!r}, found {found}"
            )
        scale = 1.0 / np.iinfo(value.dtype).max if value.dtype.kind == "i" else 1.0
        return value.astype(np.float32) * np.float32(scale), array_rate_hz
    if not isinstance(value, bytes):
        raise BadExample(key, f"expected encoded audio in {path!r}, found a {type(value).__name__}")
    if not value:
        raise BadExample(key, f"expected audio in {path!r}, found an empty file")
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(value)) as file:
            # A little longer than the result, since the resampler's filter reaches past the last sample.
            frames = math.ceil((seconds + 0.1) * file.samplerate)
            return file.read(frames, dtype="float32", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise BadExample(
            key, f"expected audio in {path!r} that libsndfile can decode, found {error}"
        ) from error
