"""Log-mel spectrograms against loops of their definition and Whisper's filters; properties of SpecAugment."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from mmjax.encoders import LogMel, SpecAugment
from mmjax.encoders.spectrogram import hz_to_mel, mel_filters, mel_to_hz, random_band
from mmjax.testing import TOLERANCE

RATE = 8000


def clip(seconds: float = 0.2) -> np.ndarray:
    """A chirp and a quieter tone, with noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    rng = np.random.default_rng(0)
    tones = [0.5 * np.sin(2 * np.pi * (300 + 4000 * time) * time), 0.1 * np.sin(2 * np.pi * 1000 * time)]
    return np.float32(tones + 0.01 * rng.normal(size=(2, len(time))))


def loop_log_mel(samples, mask, mel: LogMel) -> tuple[np.ndarray, np.ndarray]:
    """The log-mel spectrogram of one clip, with an explicit Fourier matrix."""
    window, hop, fft = mel.sizes()
    samples = np.where(mask, np.float64(samples), 0)
    hann = [0.5 - 0.5 * np.cos(2 * np.pi * n / window) for n in range(window)]
    frequencies = np.exp(-2j * np.pi * np.outer(np.arange(fft // 2 + 1), np.arange(window)) / fft)
    filters = loop_filters(fft, mel.num_mels)
    frames, valid = [], []
    for t in range(len(samples) // hop):
        indices = [t * hop - window // 2 + n for n in range(window)]
        window_samples = [samples[i] if 0 <= i < len(samples) else 0.0 for i in indices]
        power = np.abs(frequencies @ np.multiply(window_samples, hann)) ** 2
        frames.append(np.log(power @ filters + mel.floor))
        valid.append(mask[t * hop])
    frames, valid = np.array(frames), np.array(valid)
    frames = (frames - frames[valid].mean()) / np.sqrt(frames[valid].var() + 1e-5)
    return np.where(valid[:, None], frames, 0), valid


def loop_filters(fft: int, num_mels: int) -> np.ndarray:
    """Triangles of unit area between neighbouring points of the mel scale."""
    edges = mel_to_hz(np.linspace(0, hz_to_mel(RATE / 2), num_mels + 2))
    filters = np.zeros((fft // 2 + 1, num_mels))
    for m in range(num_mels):
        low, centre, high = edges[m : m + 3]
        for k in range(fft // 2 + 1):
            hz = k * RATE / fft
            height = (hz - low) / (centre - low) if hz < centre else (high - hz) / (high - centre)
            filters[k, m] = max(0, height) * 2 / (high - low)
    return filters


@pytest.mark.parametrize("changes", [{}, {"window_seconds": 0.032, "hop_seconds": 0.0125}])
def test_log_mel(changes):
    mel = LogMel(sample_rate_hz=RATE, num_mels=16, **changes)
    samples = clip()
    mask = np.arange(samples.shape[1]) < np.array([[1600], [900]])
    found, found_mask = jax.jit(mel.__call__)(samples, mask)
    for i in range(2):
        expected, expected_mask = loop_log_mel(samples[i], mask[i], mel)
        np.testing.assert_array_equal(found_mask[i], expected_mask)
        # 20 times: the logarithm amplifies rounding errors of the FFT in bands of little power.
        np.testing.assert_allclose(found[i], expected, atol=20 * TOLERANCE["fp32_stack"])


def test_a_relative_floor_gives_equal_features_at_any_loudness():
    mel = jax.jit(LogMel(sample_rate_hz=RATE, num_mels=20, floor_kind="relative").__call__)
    samples, mask = clip(), np.ones((2, 1600), bool)
    expected = mel(samples, mask)[0]
    for gain in (100, 0.1, 1e-4):
        np.testing.assert_allclose(mel(gain * samples, mask)[0], expected, atol=1e-3)


def test_the_absolute_floor_matters_in_quiet_clips_alone():
    mel = jax.jit(LogMel(sample_rate_hz=RATE, num_mels=20).__call__)
    samples, mask = clip(), np.ones((2, 1600), bool)
    expected = mel(samples, mask)[0]
    np.testing.assert_allclose(mel(2 * samples, mask)[0], expected, atol=0.01)
    assert np.abs(mel(1e-3 * samples, mask)[0] - expected).max() > 0.1


OPTIONS = [
    {}, {"floor_kind": "relative"}, {"floor_kind": "clamp", "scaling": "fixed"},
    {"frames": "kaldi", "mel_scale": "kaldi"}, {"frames": "reflected", "scaling": "whisper"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_silence_and_masked_clips_give_finite_features(options):
    mel = jax.jit(LogMel(sample_rate_hz=RATE, num_mels=20, **options).__call__)
    samples, mask = clip(), np.ones((2, 1600), bool)
    assert np.isfinite(mel(0 * samples, mask)[0]).all()
    features, frame_mask = mel(samples, ~mask)
    assert not frame_mask.any() and not np.asarray(features).any()


FIXTURES = np.load(Path(__file__).parent / "fixtures" / "spectrograms.npz")
SPEECH = np.float32(FIXTURES["samples"] / 32768)[None]


@pytest.mark.parametrize("num_mels", [80, 128])
def test_features_equal_whispers(num_mels):
    samples = np.pad(SPEECH, ((0, 0), (0, 480_000 - SPEECH.size)))
    found, mask = jax.jit(LogMel.whisper(num_mels).__call__)(samples, np.ones(samples.shape, bool))
    expected = FIXTURES[f"whisper_{num_mels}"]
    assert found.shape == (1, 3000, num_mels) and mask.all()
    np.testing.assert_allclose(found[0, : len(expected)], expected, atol=1e-3)


def test_valid_frames_of_a_masked_clip_equal_whispers():
    samples = np.pad(SPEECH, ((0, 0), (0, 8000)))
    mask = np.arange(samples.size)[None] < SPEECH.size
    found, frame_mask = jax.jit(LogMel.whisper().__call__)(samples, mask)
    np.testing.assert_allclose(found[frame_mask], FIXTURES["whisper_80"][:120], atol=1e-3)


def test_features_equal_those_of_ast():
    found, mask = jax.jit(LogMel.ast().__call__)(SPEECH, np.ones(SPEECH.shape, bool))
    assert mask.all()
    np.testing.assert_allclose(found[0], FIXTURES["ast"], atol=1e-3)
    padded = np.pad(SPEECH, ((0, 0), (0, 4321)))
    found, mask = jax.jit(LogMel.ast().__call__)(padded, np.arange(padded.size)[None] < SPEECH.size)
    np.testing.assert_allclose(found[mask], FIXTURES["ast"], atol=1e-3)


@pytest.mark.parametrize("rate, fft", [(11_025, 275), (22_050, 551), (8000, 201), (16_000, 400)])
def test_filters_of_odd_windows_have_the_frequencies_of_the_fourier_transform(rate, fft):
    """librosa.filters.mel (0.11) with htk=False, norm="slaney", whose bins are at np.fft.rfftfreq."""
    bins = np.fft.rfftfreq(fft, 1 / rate)
    edges = mel_to_hz(np.linspace(hz_to_mel(0.0), hz_to_mel(rate / 2), 22))
    ramps = edges[:, None] - bins
    lower, upper = -ramps[:-2] / np.diff(edges)[:-1, None], ramps[2:] / np.diff(edges)[1:, None]
    expected = np.maximum(0, np.minimum(lower, upper)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    np.testing.assert_allclose(mel_filters(rate, fft, 20, 0.0, rate / 2), expected.T, rtol=1e-4, atol=1e-8)


def test_kaldis_filters_equal_transformers():
    expected = mel_filter_bank(
        257, 40, 20.0, 8000.0, 16_000, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    np.testing.assert_allclose(mel_filters(16_000, 512, 40, 20.0, 8000.0, "kaldi"), expected, atol=1e-5)


def test_filters_equal_whispers():
    whisper = WhisperFeatureExtractor(feature_size=80, sampling_rate=16_000, n_fft=400).mel_filters
    np.testing.assert_allclose(mel_filters(16_000, 400, 80, 0.0, 8000.0), whisper, rtol=1e-4, atol=1e-8)


def test_filters_between_two_frequencies_equal_slaneys():
    expected = mel_filter_bank(129, 20, 60.0, 3800.0, RATE, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(RATE, 256, 20, 60.0, 3800.0), expected, rtol=1e-4, atol=1e-8)


def test_mels_and_hertz_are_inverse():
    hz = np.array([0.0, 100, 999, 1000, 1001, 8000])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz)), hz, rtol=1e-9)
    np.testing.assert_allclose(hz_to_mel(np.array([200.0, 1000, 6400])), [3, 15, 42])


# A spectrogram whose value at frame t is t + 1 in every mel; the second clip has 20 valid frames.
RAMP = np.repeat(np.arange(1, 33, dtype=np.float32)[None, :, None], 2, 0) * np.ones((1, 1, 8), np.float32)
RAMP_MASK = np.arange(32)[None] < np.array([[32], [20]])
RAMP *= RAMP_MASK[..., None]


def augmented(augment: SpecAugment, mel=RAMP, mask=RAMP_MASK, num: int = 64):
    """Augments with `num` keys: "num B frames mels", "num B frames"."""
    keys = jax.random.split(jax.random.key(0), num)
    return jax.device_get(
        jax.jit(jax.vmap(lambda key: augment(jnp.asarray(mel), jnp.asarray(mask), key)))(keys)
    )


def test_augmentation_is_off_by_default():
    mel, mask = augmented(SpecAugment(), num=1)
    np.testing.assert_array_equal(mel[0], RAMP)
    np.testing.assert_array_equal(mask[0], RAMP_MASK)


def test_time_masks_zero_runs_of_whole_frames():
    mel, mask = augmented(SpecAugment(num_time_masks=1, max_mask_frames=5))
    masked = (mel == 0)[:, 0]
    assert (masked.all(-1) == masked.any(-1)).all()
    assert_runs(masked.all(-1), 5)
    np.testing.assert_array_equal(mask, np.broadcast_to(RAMP_MASK, mask.shape))


def test_mel_masks_zero_runs_of_whole_mels():
    mel, _ = augmented(SpecAugment(num_mel_masks=1, max_mask_mels=3))
    masked = (mel == 0)[:, 0]
    assert (masked.all(1) == masked.any(1)).all()
    assert_runs(masked.all(1), 3)


def assert_runs(masked: np.ndarray, max_width: int) -> None:
    """Each row has one run; all widths up to `max_width` occur, and every position is masked in some row."""
    widths = masked.sum(1)
    assert set(widths) == set(range(max_width + 1))
    assert (np.abs(np.diff(np.pad(masked, ((0, 0), (1, 1))).astype(int), axis=1)).sum(1) <= 2).all()
    assert masked.any(0).all()


def test_bands_wider_than_the_axis_are_clipped():
    bands = random_band(jax.random.key(0), 200, 4, 9)
    assert bands.all(1).any() and not bands.all(1).all()


def test_time_stretch_changes_speed_within_bounds():
    mel, mask = augmented(SpecAugment(time_stretch=0.25))
    # The mask of the second clip, 20 frames, still starts at 0; its length follows from the speed.
    length = mask[:, 1].sum(1)
    np.testing.assert_array_equal(mask[:, 1], np.arange(32) < length[:, None])
    assert length.min() >= 19 / 1.25 and length.max() <= 20 / 0.75 + 1 and len(set(length)) > 5
    assert (mel[~mask] == 0).all()
    # A ramp stays a ramp whose slope is the speed. The last valid frames may be interpolated with padding.
    slope = mel[:, 1, 1, 0] - mel[:, 1, 0, 0]
    assert slope.min() >= 0.75 - 1e-3 and slope.max() <= 1.25 + 1e-3 and slope.std() > 0.05
    np.testing.assert_allclose(mel[:, 1, :12, 0], 1 + slope[:, None] * np.arange(12), rtol=1e-3)
    # The first clip has no padding: if it is sped up, the frames after its end are masked.
    fast = slope_of(mel[:, 0]) > 1.05
    assert fast.any() and not mask[fast, 0, -1].any()


def slope_of(mel: np.ndarray) -> np.ndarray:
    return mel[:, 1, 0] - mel[:, 0, 0]


def test_mel_stretch_changes_mels_but_not_time():
    mel_ramp = RAMP_MASK[..., None] * np.arange(8, dtype=np.float32)
    mel, mask = augmented(SpecAugment(mel_stretch=0.2), mel_ramp)
    np.testing.assert_array_equal(mask, np.broadcast_to(RAMP_MASK, mask.shape))
    assert (mel[~mask] == 0).all()
    slope = mel[:, 0, 0, 1] - mel[:, 0, 0, 0]
    assert slope.min() >= 0.8 - 1e-3 and slope.max() <= 1.2 + 1e-3 and slope.std() > 0.05
    np.testing.assert_allclose(mel[:, 0], np.broadcast_to(mel[:, 0, :1], mel[:, 0].shape), atol=1e-5)
