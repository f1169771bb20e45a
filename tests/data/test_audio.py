"""AudioTransform: decoding, resampling, length, augmentation, bad audio."""

import numpy as np
import pytest

from mmjax import data
from mmjax.errors import InputError


def transformed(transform, value, rng=None):
    return transform.augment(transform.decode({"__key__": "k", "wav": value}), rng)


def bad_reason(transform, value) -> str:
    with pytest.raises(data.BadExample) as caught:
        transform.decode({"__key__": "k", "wav": value})
    return str(caught.value)


def test_audio_is_cut_or_padded_with_a_mask(make):
    transform = data.AudioTransform("wav", 8000, 0.1)
    short = transformed(transform, make.audio(make.tone(0.05), 8000))
    assert short.samples.shape == (800,) and short.samples.dtype == np.float32
    assert short.mask.sum() == 400 and short.mask[:400].all() and not short.samples[400:].any()
    np.testing.assert_allclose(short.samples[:400], make.tone(0.05), atol=1 / 32000)
    assert transformed(transform, make.audio(make.tone(0.3), 8000)).mask.all()


@pytest.mark.parametrize("rate", [7350, 8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_rate_and_channels_become_mono_at_the_target_rate(make, rate, channels):
    transform = data.AudioTransform("wav", 16000, 0.2)
    tone = make.tone(0.25, rate)
    audio = transformed(transform, make.audio(np.stack([tone] * channels, axis=1), rate))
    expected = make.tone(0.2, 16000)
    assert audio.mask.all()
    np.testing.assert_allclose(audio.samples[500:-500], expected[500:-500], atol=0.01)


def test_stereo_is_the_mean_of_its_channels(make):
    left, right = np.full(100, 0.5), np.full(100, -0.1)
    audio = transformed(
        data.AudioTransform("wav", 8000, 0.0125), make.audio(np.stack([left, right], axis=1), 8000)
    )
    np.testing.assert_allclose(audio.samples, 0.2, atol=1e-4)


@pytest.mark.parametrize(
    "format, subtype", [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
)
def test_every_common_format_is_decoded(make, format, subtype):
    audio = transformed(
        data.AudioTransform("wav", 16000, 0.3), make.audio(make.tone(0.3, 16000), 16000, format, subtype)
    )
    assert 0.2 < np.abs(audio.samples).max() <= 1.0 and audio.mask.sum() > 4000


def test_arrays_have_the_target_rate():
    transform = data.AudioTransform("wav", 8000, 0.001)
    np.testing.assert_allclose(transformed(transform, np.full(8, 0.5)).samples, 0.5, atol=1e-4)
    np.testing.assert_allclose(transformed(transform, np.full(8, 16384, np.int16)).samples, 0.5, atol=1e-4)
    assert "expected an array of samples" in bad_reason(transform, np.zeros((2, 2, 2)))


def test_only_the_needed_samples_are_decoded(make, monkeypatch):
    import soundfile

    read, requested = soundfile.SoundFile.read, []
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda self, frames, **rest: requested.append(frames) or read(self, frames, **rest),
    )
    decoded = data.AudioTransform("wav", 8000, 0.1, shift_seconds=0.05).decode(
        {"__key__": "k", "wav": make.audio(np.zeros(80000), 8000)}
    )
    assert requested == [2000] and decoded[0].size == 1200 and decoded[0].dtype == np.int16


def test_shift_starts_earlier_or_later(make):
    transform = data.AudioTransform("wav", 1000, 0.1, shift_seconds=0.05)
    ramp = np.arange(200) / 1000
    starts = set()
    for seed in range(30):
        audio = transformed(transform, make.audio(ramp, 1000), np.random.default_rng(seed))
        first = int(np.argmax(audio.mask))
        assert audio.mask[first:].all()
        starts.add(round(float(audio.samples[first]) * 1000) - first)
    assert min(starts) < -30 and max(starts) > 30 and max(map(abs, starts)) <= 50
    np.testing.assert_allclose(transformed(transform, make.audio(ramp, 1000)).samples, ramp[:100], atol=1e-4)


def test_shift_never_empties_a_short_clip(make):
    transform = data.AudioTransform("wav", 1000, 0.05, shift_seconds=0.5)
    for seed in range(30):
        assert transformed(transform, make.audio(np.ones(10), 1000), np.random.default_rng(seed)).mask.any()


def test_gain_is_bounded_in_db_and_clipped(make):
    transform = data.AudioTransform("wav", 1000, 0.01, gain_db=6.0)
    encoded = make.audio(np.full(10, 0.8), 1000)
    levels = [
        float(transformed(transform, encoded, np.random.default_rng(seed)).samples[0]) for seed in range(40)
    ]
    assert 0.4 < min(levels) < 0.6 and max(levels) == 1.0
    np.testing.assert_allclose(transformed(transform, encoded).samples, 0.8, atol=1e-4)


def test_audio_without_samples_is_a_bad_example(make):
    transform = data.AudioTransform("wav", 8000, 0.1)
    assert bad_reason(transform, b"") == "k: expected audio in 'wav', found an empty file"
    assert bad_reason(transform, make.audio(np.zeros(0), 8000)) == (
        "k: expected audio in 'wav', found no samples"
    )
    assert "found no samples" in bad_reason(transform, np.zeros(0))
    assert "less than one sample at 1 Hz" in bad_reason(
        data.AudioTransform("wav", 1, 1.0), make.audio(np.zeros(3), 48000)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_samples_are_a_bad_example(make, value):
    samples = make.tone()
    samples[5:7] = value
    message = bad_reason(data.AudioTransform("wav", 16000, 0.1), make.audio(samples, 8000))
    assert message == "k: expected finite samples in 'wav', found 2 NaN or infinite"


def test_other_data_are_bad_examples(make):
    transform = data.AudioTransform("wav", 8000, 0.1)
    assert "that libsndfile can decode, found" in bad_reason(transform, b"RIFF and nothing")
    assert "expected encoded audio in 'wav', found a str" in bad_reason(transform, "text")
    assert "k: expected the field 'ogg'" in str(
        pytest.raises(data.MissingField, data.AudioTransform("ogg", 1, 1.0).decode, {"__key__": "k"}).value
    )


def test_invalid_settings_are_refused():
    with pytest.raises(InputError, match="expected 1 to 268,435,456 samples, found 1e-05 s at 16000 Hz"):
        data.AudioTransform("wav", 16000, 1e-5)
    with pytest.raises(InputError, match="gain_db"):
        data.AudioTransform("wav", 16000, 1.0, gain_db=-1.0)


def test_empty_has_the_shapes_of_audio(make):
    transform = data.AudioTransform("wav", 8000, 0.1)
    empty = transform.empty()
    assert empty.samples.shape == (800,) and empty.samples.dtype == np.float32 and not empty.mask.any()
