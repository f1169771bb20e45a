"""One record -> a mono waveform of static length. The encoder computes the spectrogram, on the device."""

import dataclasses
import math
from typing import Any

import numpy as np

from mmjax.batch import Audio
from mmjax.data import augment
from mmjax.data.augment.base import GEOMETRY, with_generators, without
from mmjax.data.records import BadExample, Record, lookup, read_each_path
from mmjax.data.sound import read_array, read_file
from mmjax.data.transform import Transform, choose
from mmjax.errors import InputError
from mmjax.ranges import Count, NonNegative, Positive

# Decoded audio is kept as int16: half the memory of float32, with an inaudible rounding error.
_FULL_SCALE = 32767.0
_MAX_SAMPLES = 2**28  # of one example: 1 GiB


@dataclasses.dataclass(frozen=True)
class AudioTransform(Transform):
    """Decodes the first `seconds` of audio, mixes to mono, resamples, and pads with masked silence.

    Only the part that any shift and speed can reach is decoded, however long the recording is. Truncated
    files, samples that are not finite, and unknown scales make bad examples. A recording with peaks of up to
    twice full scale, which lossy decoders give, is scaled down rather than clipped.

    field: path to an encoded file (WAV, FLAC, Ogg Vorbis and Opus, MP3, ...) or to an array, "samples" or
        "samples channels", sampled at `sample_rate_hz`. Of several paths, training takes a random one and
        evaluation the first.
    sample_rate_hz: sample rate of the result.
    seconds: duration of the result.
    shift_seconds: training starts up to this much earlier (masked silence) or later.
    gain_db: training changes the volume by up to this much, up or down.
    optional: the record may lack all paths; the example then lacks this stream.
    augmentations: further augmentations of training, in order, before shift, gain and cut.
    full_scale: the value of the loudest possible sample of an array, e.g. 32768. None: 1 for floats, the
        range of int8, uint8 and int16, and for wider integers that of 16 bits, which TFDS gives as int64, or
        of 32 bits, whichever the samples fill.
    """

    field: str | tuple[str, ...]
    sample_rate_hz: Count
    seconds: Positive
    shift_seconds: NonNegative = 0.0
    gain_db: NonNegative = 0.0
    optional: bool = False
    augmentations: tuple[augment.AudioAugmentation, ...] = ()
    full_scale: Positive | None = None

    def __post_init__(self):
        for other in (a.transform for a in self.augmentations if isinstance(a, augment.Background)):
            if not isinstance(other, AudioTransform) or other.sample_rate_hz != self.sample_rate_hz:
                raise InputError(
                    "expected a Background whose transform is an AudioTransform of "
                    f"{self.sample_rate_hz} Hz, found {other}"
                )
        if not 1 <= self.seconds * self.sample_rate_hz <= _MAX_SAMPLES:
            raise InputError(
                f"expected 1 to {_MAX_SAMPLES:,} samples, found {self.seconds} s at {self.sample_rate_hz} Hz"
            )

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

    def locate(self, record: Record) -> None:
        next(read_each_path(record, self.field, lookup))

    def _decode(self, record: Record, path: str) -> np.ndarray:
        key, value = record["__key__"], lookup(record, path)
        seconds = self.seconds + self.shift_seconds
        seconds *= math.prod(max(augmentation.input_ratio(), 1.0) for augmentation in self.augmentations)
        # A little longer than the result, since the resampler's filter reaches past the last sample.
        margin = 0.1
        if isinstance(value, np.ndarray):
            rate = self.sample_rate_hz
            mono = read_array(key, path, value, rate, seconds + margin, self.full_scale)
        elif isinstance(value, bytes):
            mono, rate = read_file(key, path, value, seconds + margin)
        else:
            raise BadExample(key, f"expected encoded audio in {path!r}, found a {type(value).__name__}")
        if not mono.size:
            raise BadExample(key, f"expected audio in {path!r}, found no samples")
        if rate != self.sample_rate_hz:
            mono = _resample(key, path, mono, rate, self.sample_rate_hz)
        mono = mono[: max(round(seconds * self.sample_rate_hz), 1)]
        if not mono.size:
            raise BadExample(
                key, f"expected audio in {path!r}, found less than one sample at {self.sample_rate_hz} Hz"
            )
        return np.round(mono * (_FULL_SCALE / max(float(np.abs(mono).max()), 1.0))).astype(np.int16)

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
