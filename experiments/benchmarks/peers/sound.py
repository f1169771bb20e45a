"""Spectrograms and resampling, beside transformers and librosa."""

import io

import jax.numpy as jnp
import librosa
import numpy as np
import soundfile
import transformers
from transformers.audio_utils import mel_filter_bank

from mmjax import data
from mmjax.encoders import LogMel
from mmjax.encoders.spectrogram import mel_filters
from peers.comparison import Comparison

RATE_HZ = 16_000


def tones(seconds: float = 1.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Gliding tones with a little noise: float32 "samples"."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    rng = np.random.default_rng(0)
    wave = 0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time) + 0.1 * np.sin(2 * np.pi * 3100 * time)
    return (wave + 0.003 * rng.normal(size=time.size)).astype(np.float32)


def spectrogram(mel: LogMel, samples: np.ndarray, valid: int | None = None) -> np.ndarray:
    mask = np.arange(samples.size) < (samples.size if valid is None else valid)
    return np.asarray(mel(jnp.asarray(samples[None]), jnp.asarray(mask[None]))[0][0])


def whisper():
    extractor = transformers.WhisperFeatureExtractor()
    theirs = extractor(tones(), sampling_rate=RATE_HZ, return_tensors="np").input_features[0].T
    padded = np.pad(tones(), (0, 30 * RATE_HZ - tones().size))
    return spectrogram(LogMel.whisper(), padded), theirs


def ast():
    extractor = transformers.ASTFeatureExtractor()
    theirs = extractor(tones(), sampling_rate=RATE_HZ, return_tensors="np").input_values[0]
    ours = spectrogram(LogMel.ast(), tones())
    return ours, theirs[: len(ours)]


def centred():
    """The power of librosa's spectrogram, then this package's floor and scaling."""
    power = librosa.feature.melspectrogram(
        y=tones(), sr=RATE_HZ, n_fft=400, hop_length=160, n_mels=80, center=True, pad_mode="constant"
    )
    ours = spectrogram(LogMel(sample_rate_hz=RATE_HZ), tones())
    log_mel = np.log(power.T[: len(ours)] + 1e-6)
    return ours, (log_mel - log_mel.mean()) / log_mel.std()


def filters(fft: int):
    theirs = librosa.filters.mel(sr=RATE_HZ, n_fft=fft, n_mels=40, fmin=50, fmax=7000)
    return mel_filters(RATE_HZ, fft, 40, 50.0, 7000.0), theirs.T


def kaldi_filters():
    theirs = mel_filter_bank(
        num_frequency_bins=257, num_mel_filters=80, min_frequency=20, max_frequency=8000,
        sampling_rate=RATE_HZ, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True,
    )  # fmt: skip
    return mel_filters(RATE_HZ, 512, 80, 20.0, 8000.0, "kaldi"), theirs


def resampled(rate_hz: int):
    file = io.BytesIO()
    soundfile.write(file, tones(rate_hz=rate_hz), rate_hz, format="WAV", subtype="FLOAT")
    transform = data.AudioTransform("wav", RATE_HZ, 1.5)
    decoded = transform.decode({"__key__": "0", "wav": file.getvalue()})
    ours = np.asarray(transform.augment(decoded, None).samples)
    theirs = librosa.resample(tones(rate_hz=rate_hz), orig_sr=rate_hz, target_sr=RATE_HZ, res_type="soxr_hq")
    return ours, np.pad(theirs, (0, max(0, ours.size - theirs.size)))[: ours.size]


ROWS = (
    Comparison("log-mel of Whisper", "transformers", "WhisperFeatureExtractor", whisper, 1e-3),
    Comparison("log-mel of AST", "transformers", "ASTFeatureExtractor", ast, 1e-3),
    Comparison("log-mel, centred windows", "librosa", "feature.melspectrogram", centred, 1e-3),
    Comparison("mel filters, 400 samples", "librosa", "filters.mel", lambda: filters(400), 1e-6),
    Comparison("mel filters, 551 samples", "librosa", "filters.mel", lambda: filters(551), 1e-6),
    Comparison("mel filters of Kaldi", "transformers", "audio_utils.mel_filter_bank", kaldi_filters),
    Comparison(
        "resampling from 44.1 kHz", "librosa", "resample(res_type='soxr_hq')", lambda: resampled(44_100), 1e-3
    ),
    Comparison(
        "resampling from 8 kHz", "librosa", "resample(res_type='soxr_hq')", lambda: resampled(8_000), 1e-3
    ),
)
