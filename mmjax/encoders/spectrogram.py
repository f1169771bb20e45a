"""Log-mel spectrograms, and their augmentation in training; both run on the device."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32

from mmjax.ranges import Count, Decay, Finite, NonNegative, Positive, Size, Whole
from mmjax.sharding import map_batch_shards
from mmjax.spec import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogMel(Spec):
    """A log-mel spectrogram of Hann windows. `LogMel.whisper()` and `LogMel.ast()` equal published ones.

    By default frame t is centred on sample `t * hop`, there is one for every `hop` samples or part of it, and
    each clip is normalised to mean 0 and standard deviation 1 over its valid frames. The floor is absolute: a
    quieter copy has equal features only if the power of its bands is still far above it. With
    `floor_kind="relative"` loudness has no influence at all.

    frames: "centred": zeros are added at both ends of the samples. "reflected": they are mirrored there, as
      in Whisper (Radford et al. 2022). "kaldi": only whole windows; each has its mean removed, pre-emphasis
      of 0.97 and a symmetric Hann window, and is padded to the next power of two, as in Kaldi.
    mel_scale: "slaney": triangles of unit area in hertz, on the scale of Slaney's Auditory Toolbox (1998).
      "kaldi": triangles of unit height in mels, on the scale 1127 ln(1 + f / 700).
    low_hz, high_hz: the range of the filters; `high_hz` None: half of the sample rate.
    floor, floor_kind: the power of a band before the logarithm. "add": the floor is added. "clamp": it is the
      least power. "relative": `floor` times the mean power of the clip's valid frames and bands is added.
    clip_seconds: the length to which each clip is padded with silence or cut, as Whisper does with 30 s. The
      silence counts as sound: its frames are valid. With "kaldi" frames, as AST does, there is one frame for
      each hop, and the logarithm of a frame beyond the clip is 0. None: a clip stays as long as it is.
    scaling: "clip": mean 0 and standard deviation 1. "whisper": decades, at most 8 below the clip's highest
      value, plus 4, divided by 4. "fixed": `mean` is subtracted, then it is divided by `std`.
    """

    sample_rate_hz: Count
    num_mels: Size = 80
    window_seconds: Positive = 0.025
    hop_seconds: Positive = 0.010
    low_hz: NonNegative = 0.0
    high_hz: Positive | None = None
    floor: Positive = 1e-6
    frames: Literal["centred", "reflected", "kaldi"] = "centred"
    mel_scale: Literal["slaney", "kaldi"] = "slaney"
    floor_kind: Literal["add", "clamp", "relative"] = "add"
    scaling: Literal["clip", "whisper", "fixed"] = "clip"
    mean: Finite = 0.0
    std: Positive = 1.0
    clip_seconds: Positive | None = None

    @classmethod
    def whisper(cls, num_mels: int = 80, clip_seconds: float | None = None) -> "LogMel":
        """Whisper's features (Radford et al. 2022, section 2.2); of clips of any length with clip_seconds=30.

        Without, frames of masked padding are zero, where Whisper's hold its lowest value. Valid frames are
        equal, except the last two of an array without padding, which is mirrored there.
        """
        return cls(
            sample_rate_hz=16_000, num_mels=num_mels, frames="reflected", floor=1e-10, floor_kind="clamp",
            scaling="whisper", clip_seconds=clip_seconds,
        )  # fmt: skip

    @classmethod
    def ast(
        cls,
        mean: float = -4.2677393,
        std: float = 4.5689974,
        *,
        num_mels: int = 128,
        clip_seconds: float | None = None,
    ) -> "LogMel":
        """The features of AST (Gong et al. 2021, section 2.1), in the frames that lie within the clip.

        Args:
          mean, std: those of the data set before scaling, by default AudioSet's.
          num_mels: the number of bands.
          clip_seconds: 10.24 for AST's 1024 frames, those beyond the clip included.
        """  # fmt: skip
        return cls(
            sample_rate_hz=16_000, num_mels=num_mels, low_hz=20.0, frames="kaldi", mel_scale="kaldi",
            floor=1.1920929e-07, floor_kind="clamp", scaling="fixed", mean=mean, std=2 * std,
            clip_seconds=clip_seconds,
        )  # fmt: skip

    def sizes(self) -> tuple[int, int, int]:
        """(window, hop, FFT length) in samples."""
        window = round(self.window_seconds * self.sample_rate_hz)
        fft = 1 << (window - 1).bit_length() if self.frames == "kaldi" else window
        return window, round(self.hop_seconds * self.sample_rate_hz), fft

    def __call__(
        self, samples: Float[jax.Array, "B samples"], mask: Bool[jax.Array, "B samples"]
    ) -> tuple[Float32[jax.Array, "B frames mels"], Bool[jax.Array, "B frames"]]:
        """Returns the spectrogram, zero at masked frames, and the mask of its frames."""
        samples = jnp.where(mask, samples, 0)  # the last valid windows overlap the padding
        is_present = mask.any(1, keepdims=True)
        if self.clip_seconds is not None:
            samples, mask = self._fit(samples, mask)
            if self.frames != "kaldi":
                mask = jnp.broadcast_to(is_present, samples.shape)
        frames, frame_mask = self._split(samples, mask)
        fft = self.sizes()[2]
        spectrum = map_batch_shards(lambda frames: jnp.fft.rfft(frames, n=fft), frames)
        # Not abs(): its safe square root costs more than the FFT.
        power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
        high = self.sample_rate_hz / 2 if self.high_hz is None else self.high_hz
        filters = mel_filters(self.sample_rate_hz, fft, self.num_mels, self.low_hz, high, self.mel_scale)
        mel = self._scale(power @ filters, frame_mask[..., None])
        if self.clip_seconds is not None and self.frames == "kaldi":
            beyond = -self.mean / self.std if self.scaling == "fixed" else 0.0
            mel = jnp.where((is_present & ~frame_mask)[..., None], beyond, mel)
            frame_mask = jnp.broadcast_to(is_present, frame_mask.shape)
        return mel, frame_mask

    def _fit(self, samples: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Samples and mask, padded or cut to `clip_seconds`, or for "kaldi" to one window for each hop."""
        window, hop, _ = self.sizes()
        length = round((self.clip_seconds or 0) * self.sample_rate_hz)
        if self.frames == "kaldi":
            length = max(length // hop - 1, 0) * hop + window
        padding = (0, 0), (0, max(0, length - samples.shape[1]))
        return jnp.pad(samples, padding)[:, :length], jnp.pad(mask, padding)[:, :length]

    def _split(self, samples: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Windowed frames "B frames window" and their mask."""
        window, hop, _ = self.sizes()
        if self.frames == "kaldi":
            num_frames = max(samples.shape[1] - window, -1) // hop + 1
            frame_mask = mask[:, window - 1 :: hop]  # the last sample of each window
        else:
            num_frames = -(-samples.shape[1] // hop)
            frame_mask = mask[:, ::hop]
            how = {"mode": "reflect"} if self.frames == "reflected" else {}
            samples = jnp.pad(samples, ((0, 0), (window // 2, window // 2)), **how)
        # A window is a concatenation of pieces of `hop` samples, which is faster than a gather.
        pieces_per_window = -(-window // hop)
        size = (num_frames + pieces_per_window) * hop
        pieces = jnp.pad(samples[:, :size], ((0, 0), (0, max(size - samples.shape[1], 0))))
        pieces = pieces.reshape(samples.shape[0], -1, hop)
        frames = jnp.concatenate([pieces[:, i : i + num_frames] for i in range(pieces_per_window)], axis=-1)
        frames = frames[..., :window]
        hann = np.hanning(window + 1)[:-1]
        if self.frames == "kaldi":
            frames -= frames.mean(-1, keepdims=True)
            frames -= 0.97 * jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
            hann = np.hanning(window)
        return frames * hann[None, None].astype(np.float32), frame_mask

    def _scale(self, mel: jax.Array, mask: jax.Array) -> jax.Array:
        """Logarithm and scaling of the power in each band "B frames mels"; zero at masked frames."""
        weight = mask.astype(jnp.float32)
        count = jnp.maximum(weight.sum((1, 2), keepdims=True) * self.num_mels, 1.0)
        match self.floor_kind:
            case "add":
                mel += self.floor
            case "clamp":
                mel = jnp.maximum(mel, self.floor)
            case "relative":
                mel += self.floor * (mel * weight).sum((1, 2), keepdims=True) / count
                mel = jnp.maximum(mel, np.finfo(np.float32).tiny)  # silence
        log_mel = jnp.log(mel)
        match self.scaling:
            case "fixed":
                return (log_mel - self.mean) / self.std * weight
            case "whisper":
                decades = log_mel / np.log(10).astype(np.float32)
                highest = jnp.where(mask, decades, -jnp.inf).max((1, 2), keepdims=True)
                highest = jnp.where(mask.any((1, 2), keepdims=True), highest, 0)
                return (jnp.maximum(decades, highest - 8) + 4) / 4 * weight
        mean = (log_mel * weight).sum((1, 2), keepdims=True) / count
        centred = (log_mel - mean) * weight
        variance = jnp.square(centred).sum((1, 2), keepdims=True) / count
        return centred * jax.lax.rsqrt(variance + 1e-5)


def mel_filters(
    sample_rate_hz: int, fft: int, num_mels: int, low_hz: float, high_hz: float, scale: str = "slaney"
) -> np.ndarray:
    """The filters of a `LogMel.mel_scale`: shape (fft // 2 + 1, mels)."""
    bins = np.arange(fft // 2 + 1) * (sample_rate_hz / fft)
    if scale == "kaldi":
        low, high, bins = (1127 * np.log(1 + np.asarray(hz) / 700) for hz in (low_hz, high_hz, bins))
        edges = np.linspace(low, high, num_mels + 2)
    else:
        edges = mel_to_hz(np.linspace(hz_to_mel(low_hz), hz_to_mel(high_hz), num_mels + 2))
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - lower) / (centre - lower)
    falling = (upper - bins[:, None]) / (upper - centre)
    height = 1 if scale == "kaldi" else 2 / (upper - lower)
    return (np.maximum(0, np.minimum(rising, falling)) * height).astype(np.float32)


# Slaney's scale is linear up to 1 kHz (15 mels), then logarithmic: 27 mels for each factor of 6.4.
def hz_to_mel(hz):
    """Hertz to mels on Slaney's scale."""
    hz = np.asarray(hz)
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1e-9) / 1000) / np.log(6.4))


def mel_to_hz(mel):
    """Mels to hertz on Slaney's scale."""
    mel = np.asarray(mel)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecAugment(Spec):
    """Augments a spectrogram, independently for each example.

    num_time_masks, max_mask_frames: how many runs of frames are zeroed, and their largest length (Park et al.
      2019, SpecAugment, without its time warp).
    num_mel_masks, max_mask_mels: the same for runs of mels.
    time_stretch: 0.25 changes the speed by a factor from 0.75 to 1.25.
    mel_stretch: the same for the mel axis (vocal tract length perturbation, Jaitly & Hinton 2013).
    """

    num_time_masks: Whole = 0
    max_mask_frames: Whole = 8
    num_mel_masks: Whole = 0
    max_mask_mels: Whole = 8
    time_stretch: Decay = 0.0
    mel_stretch: Decay = 0.0

    def __call__(
        self, mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], key: jax.Array
    ) -> tuple[Float[jax.Array, "B frames mels"], Bool[jax.Array, "B frames"]]:
        """Returns the augmented spectrogram and its mask."""
        stretch_key, warp_key, time_key, mel_key = jax.random.split(key, 4)
        batch, num_frames, num_mels = mel.shape
        if self.time_stretch:
            rate = 1 + self.time_stretch * jax.random.uniform(stretch_key, (batch,), minval=-1, maxval=1)
            source = jnp.arange(num_frames)[None] * rate[:, None]
            nearest = jnp.clip(jnp.round(source).astype(jnp.int32), 0, num_frames - 1)
            mask = jnp.take_along_axis(mask, nearest, axis=1) & (source <= num_frames - 1)
            mel = resample(mel, source) * mask[..., None]
        if self.mel_stretch:
            rate = 1 + self.mel_stretch * jax.random.uniform(warp_key, (batch,), minval=-1, maxval=1)
            source = jnp.arange(num_mels)[None] * rate[:, None]
            mel = resample(mel.swapaxes(1, 2), source).swapaxes(1, 2)
        for i in range(self.num_time_masks):
            key = jax.random.fold_in(time_key, i)
            mel *= ~random_band(key, batch, num_frames, self.max_mask_frames)[:, :, None]
        for i in range(self.num_mel_masks):
            key = jax.random.fold_in(mel_key, i)
            mel *= ~random_band(key, batch, num_mels, self.max_mask_mels)[:, None, :]
        return mel, mask


def resample(x: Float[jax.Array, "B N C"], source: Float[jax.Array, "B N"]) -> Float[jax.Array, "B N C"]:
    """Interpolates x linearly along N at the positions `source`, which are clipped to the axis."""
    source = jnp.clip(source, 0, x.shape[1] - 1)
    low = jnp.floor(source).astype(jnp.int32)
    high = jnp.minimum(low + 1, x.shape[1] - 1)
    fraction = (source - low)[..., None]
    return (
        jnp.take_along_axis(x, low[..., None], 1) * (1 - fraction)
        + jnp.take_along_axis(x, high[..., None], 1) * fraction
    )


def random_band(
    key: jax.Array, batch: int, length: int, max_width: int
) -> Bool[jax.Array, "{batch} {length}"]:
    """True on one random run of 0 to `max_width` positions in each example."""
    width_key, start_key = jax.random.split(key)
    width = jax.random.randint(width_key, (batch, 1), 0, max_width + 1)
    start = jax.random.randint(start_key, (batch, 1), 0, jnp.maximum(length - width, 0) + 1)
    position = jnp.arange(length)[None]
    return (position >= start) & (position < start + width)
