"""Log-mel spectrograms, and their augmentation in training; both run on the device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32

from mmjax.ranges import Count, Decay, NonNegative, Positive, Size, Whole
from mmjax.sharding import map_batch_shards
from mmjax.spec import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogMel(Spec):
    """A log-mel spectrogram of Hann windows, with area-normalised triangular filters on Slaney's mel scale.

    Frame t is centred on sample `t * hop`; there are `samples // hop` frames (Whisper's convention). Each
    clip is normalised to mean 0 and standard deviation 1 over its valid frames, so that loudness has no
    influence.

    low_hz, high_hz: the range of the filters; `high_hz` None: half of the sample rate.
    floor: added to the power before the logarithm.
    """

    sample_rate_hz: Count
    num_mels: Size = 80
    window_seconds: Positive = 0.025
    hop_seconds: Positive = 0.010
    low_hz: NonNegative = 0.0
    high_hz: Positive | None = None
    floor: NonNegative = 1e-6

    def sizes(self) -> tuple[int, int, int]:
        """(window, hop, FFT length) in samples."""
        window = round(self.window_seconds * self.sample_rate_hz)
        return window, round(self.hop_seconds * self.sample_rate_hz), window

    def __call__(
        self, samples: Float[jax.Array, "B samples"], mask: Bool[jax.Array, "B samples"]
    ) -> tuple[Float32[jax.Array, "B frames mels"], Bool[jax.Array, "B frames"]]:
        """Returns the spectrogram, zero at masked frames, and the mask of its frames."""
        samples = jnp.where(mask, samples, 0)  # the last valid windows overlap the padding
        window, hop, fft = self.sizes()
        num_frames = samples.shape[1] // hop
        padded = jnp.pad(samples, ((0, 0), (window // 2, window)))
        # A window is a concatenation of pieces of `hop` samples, which is faster than a gather.
        pieces_per_window = -(-window // hop)
        pieces = padded[:, : (num_frames + pieces_per_window) * hop]
        pieces = jnp.pad(pieces, ((0, 0), (0, (num_frames + pieces_per_window) * hop - pieces.shape[1])))
        pieces = pieces.reshape(samples.shape[0], -1, hop)
        frames = jnp.concatenate([pieces[:, i : i + num_frames] for i in range(pieces_per_window)], axis=-1)
        frames = frames[..., :window] * np.hanning(window + 1)[None, None, :-1].astype(np.float32)
        spectrum = map_batch_shards(lambda frames: jnp.fft.rfft(frames, n=fft), frames)
        # Not abs(): its safe square root costs more than the FFT.
        power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
        high = self.sample_rate_hz / 2 if self.high_hz is None else self.high_hz
        log_mel = jnp.log(
            power @ mel_filters(self.sample_rate_hz, fft, self.num_mels, self.low_hz, high) + self.floor
        )
        frame_mask = mask[:, : num_frames * hop : hop]
        weight = frame_mask[..., None].astype(jnp.float32)
        count = jnp.maximum(weight.sum((1, 2), keepdims=True) * self.num_mels, 1.0)
        mean = (log_mel * weight).sum((1, 2), keepdims=True) / count
        centred = (log_mel - mean) * weight
        variance = jnp.square(centred).sum((1, 2), keepdims=True) / count
        return centred * jax.lax.rsqrt(variance + 1e-5), frame_mask


def mel_filters(sample_rate_hz: int, fft: int, num_mels: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Triangles of unit area on Slaney's mel scale (1998, Auditory Toolbox): shape (fft / 2 + 1, mels)."""
    edges_hz = mel_to_hz(np.linspace(hz_to_mel(low_hz), hz_to_mel(high_hz), num_mels + 2))
    bins_hz = np.linspace(0, sample_rate_hz / 2, fft // 2 + 1)
    lower, centre, upper = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz[:, None] - lower) / (centre - lower)
    falling = (upper - bins_hz[:, None]) / (upper - centre)
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (upper - lower)).astype(np.float32)


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
class SpecAugment:
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
