"""Recordings: decoding, resampling, length, augmentation, refusals."""

import numpy as np
import pytest

from mmjax import data
from mmjax.errors import InputError


def one(transform, value, rng=None):
    return transform.augment(transform.decode({"__key__": "k", "wav": value}), rng)


def reason(transform, value) -> str:
    with pytest.raises(data.BadExample) as caught:
        transform.decode({"__key__": "k", "wav": value})
    return str(caught.value)


def test_a_recording_is_cut_or_padded_with_a_mask(make):
    transform = data.AudioTransform("wav", 8000, 0.1)
    short = one(transform, make.audio(make.tone(0.05), 8000))
    assert short.samples.shape == (800,) and short.samples.dtype == np.float32
    assert short.mask.sum() == 400 and short.mask[:400].all() and not short.samples[400:].any()
    np.testing.assert_allclose(short.samples[:400], make.tone(0.05), atol=1 / 32000)
    assert one(transform, make.audio(make.tone(0.3), 8000)).mask.all()


@pytest.mark.parametrize("rate", [7350, 8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_odd_rates_and_channels_become_mono_at_the_rate(make, rate, channels):
    transform = data.AudioTransform("wav", 16000, 0.2)
    tone = make.tone(0.25, rate)
    heard = one(transform, make.audio(np.stack([tone] * channels, axis=1), rate))
    expected = make.tone(0.2, 16000)
    assert heard.mask.all()
    np.testing.assert_allclose(heard.samples[500:-500], expected[500:-500], atol=0.01)


def test_stereo_is_the_mean_of_its_channels(make):
    left, right = np.full(100, 0.5), np.full(100, -0.1)
    heard = one(data.AudioTransform("wav", 8000, 0.0125), make.audio(np.stack([left, right], axis=1), 8000))
    np.testing.assert_allclose(heard.samples, 0.2, atol=1e-4)


@pytest.mark.parametrize(
    "format, subtype", [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
)
def test_every_common_format_is_decoded(make, format, subtype):
    heard = one(
        data.AudioTransform("wav", 16000, 0.3), make.audio(make.tone(0.3, 16000), 16000, format, subtype)
    )
    assert 0.2 < np.abs(heard.samples).max() <= 1.0 and heard.mask.sum() > 4000


def test_arrays_are_taken_at_the_rate():
    transform = data.AudioTransform("wav", 8000, 0.001)
    np.testing.assert_allclose(one(transform, np.full(8, 0.5)).samples, 0.5, atol=1e-4)
    np.testing.assert_allclose(one(transform, np.full(8, 16384, np.int16)).samples, 0.5, atol=1e-4)
    assert "expected an array of samples" in reason(transform, np.zeros((2, 2, 2)))


def test_only_what_is_kept_is_decoded(make, monkeypatch):
    import soundfile

    read, asked = soundfile.SoundFile.read, []
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda self, frames, **rest: asked.append(frames) or read(self, frames, **rest),
    )
    decoded = data.AudioTransform("wav", 8000, 0.1, shift_seconds=0.05).decode(
        {"__key__": "k", "wav": make.audio(np.zeros(80000), 8000)}
    )
    assert asked == [2000] and decoded[0].size == 1200 and decoded[0].dtype == np.int16


def test_shift_starts_earlier_or_later(make):
    transform = data.AudioTransform("wav", 1000, 0.1, shift_seconds=0.05)
    ramp = np.arange(200) / 1000
    starts = set()
    for seed in range(30):
        heard = one(transform, make.audio(ramp, 1000), np.random.default_rng(seed))
        first = int(np.argmax(heard.mask))
        assert heard.mask[first:].all()
        starts.add(round(float(heard.samples[first]) * 1000) - first)
    assert min(starts) < -30 and max(starts) > 30 and max(map(abs, starts)) <= 50
    np.testing.assert_allclose(one(transform, make.audio(ramp, 1000)).samples, ramp[:100], atol=1e-4)


def test_shift_never_empties_a_short_clip(make):
    transform = data.AudioTransform("wav", 1000, 0.05, shift_seconds=0.5)
    for seed in range(30):
        assert one(transform, make.audio(np.ones(10), 1000), np.random.default_rng(seed)).mask.any()


def test_gain_is_bounded_in_db_and_clipped(make):
    transform = data.AudioTransform("wav", 1000, 0.01, gain_db=6.0)
    sound = make.audio(np.full(10, 0.8), 1000)
    levels = [float(one(transform, sound, np.random.default_rng(seed)).samples[0]) for seed in range(40)]
    assert 0.4 < min(levels) < 0.6 and max(levels) == 1.0
    np.testing.assert_allclose(one(transform, sound).samples, 0.8, atol=1e-4)


def test_zero_length_is_a_bad_example(make):
    transform = data.AudioTransform("wav", 8000, 0.1)
    assert reason(transform, b"") == "k: expected sound in 'wav', found a file of zero length"
    assert reason(transform, make.audio(np.zeros(0), 8000)) == (
        "k: expected sound in 'wav', found a recording of zero length"
    )
    assert "zero length" in reason(transform, np.zeros(0))
    assert "less than one sample at 1 Hz" in reason(
        data.AudioTransform("wav", 1, 1.0), make.audio(np.zeros(3), 48000)
    )


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_non_finite_samples_are_a_bad_example(make, poison):
    samples = make.tone()
    samples[5:7] = poison
    message = reason(data.AudioTransform("wav", 16000, 0.1), make.audio(samples, 8000))
    assert message == "k: expected finite samples in 'wav', found 2 NaN or infinite"


def test_what_is_no_recording_is_a_bad_example(make):
    transform = data.AudioTransform("wav", 8000, 0.1)
    assert "that libsndfile can decode, found" in reason(transform, b"RIFF and nothing")
    assert "expected an encoded recording in 'wav', found a str" in reason(transform, "text")
    assert "k: expected the field 'ogg'" in str(
        pytest.raises(data.MissingField, data.AudioTransform("ogg", 1, 1.0).decode, {"__key__": "k"}).value
    )


def test_ill_made_specs_are_refused():
    with pytest.raises(InputError, match="expected at least one sample, found 0.0 s at 16000 Hz"):
        data.AudioTransform("wav", 16000, 0.0)
    with pytest.raises(InputError, match="expected shift and gain >= 0"):
        data.AudioTransform("wav", 16000, 1.0, gain_db=-1.0)


def test_empty_has_the_shapes_of_a_recording(make):
    transform = data.AudioTransform("wav", 8000, 0.1)
    empty = transform.empty()
    assert empty.samples.shape == (800,) and empty.samples.dtype == np.float32 and not empty.mask.any()
