"""Augmentations of images and audio: what each changes, its dependence on the generator, and its errors."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from mmjax import data
from mmjax.data import augment
from mmjax.data.augment.base import with_generators, without
from mmjax.errors import InputError
from mmjax.experiment import reading, serialize


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def frames(num: int = 1, height: int = 16, width: int = 24, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth images: noise would average to grey when rotated or sharpened."""
    small = rng(seed).integers(30, 220, (num, 4, 4, channels), np.uint8)
    return np.stack(
        [
            np.stack(
                [np.asarray(Image.fromarray(f[..., c]).resize((width, height))) for c in range(channels)], -1
            )
            for f in small
        ]
    )


def all_image_augmentations() -> list[augment.ImageAugmentation]:
    jitters = [augment.ColorJitter(), augment.RandomErasing(probability=1.0), augment.RandAugment()]
    return jitters + [
        augment.RandAugment(num_operations=1, operations=(name,), magnitude=20) for name in augment.OPERATIONS
    ]


def name_of(augmentation) -> str:
    operations = getattr(augmentation, "operations", ())
    return operations[0] if len(operations) == 1 else type(augmentation).__name__


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", all_image_augmentations(), ids=name_of)
def test_augmented_images_keep_their_shape_and_depend_only_on_the_generator(augmentation, channels):
    original = frames(channels=channels)
    before = original.copy()
    augmented = [augmentation(original, rng(seed)) for seed in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(original, before)
    assert all(image.shape == original.shape and image.dtype == np.uint8 for image in augmented)
    np.testing.assert_array_equal(augmented[0], augmented[1])
    has_no_effect = name_of(augmentation) == "identity" or (
        channels == 1 and name_of(augmentation) == "color"
    )
    assert any((image != original).any() for image in augmented) == (not has_no_effect)


@pytest.mark.parametrize("augmentation", all_image_augmentations(), ids=name_of)
def test_frames_of_a_clip_share_the_random_numbers(augmentation):
    still = np.repeat(frames(), 5, axis=0)
    for seed in range(4):
        augmented = augmentation(still, rng(seed))
        np.testing.assert_array_equal(augmented, np.repeat(augmented[:1], 5, axis=0))


def test_contrast_uses_the_mean_of_the_whole_clip():
    """With per-frame means, constant brightness would flicker."""
    clip = np.concatenate([np.full((1, 4, 4, 1), 50, np.uint8), np.full((1, 4, 4, 1), 150, np.uint8)])
    jitter = augment.ColorJitter(brightness=0.0, contrast=1.0)
    for seed in range(5):
        jittered = jitter(clip, rng(seed)).astype(int)
        assert jittered[0].mean() != 50 and jittered[0].mean() + jittered[1].mean() == pytest.approx(
            200, abs=2
        )


def test_color_jitter_equals_pillow_with_the_same_amounts():
    original = frames()
    image = Image.fromarray(original[0])
    generator = rng(3)
    generator.permutation(4)
    amounts = generator.uniform(-1, 1, 4)
    for n, (field, enhancer) in enumerate(
        [
            ("brightness", ImageEnhance.Brightness),
            ("contrast", ImageEnhance.Contrast),
            ("saturation", ImageEnhance.Color),
        ]
    ):
        single = dataclasses.replace(augment.ColorJitter(0.0, 0.0, 0.0, 0.0), **{field: 0.8})
        expected = enhancer(image).enhance(1 + 0.8 * float(amounts[n]))
        np.testing.assert_array_equal(single(original, rng(3))[0], np.asarray(expected))


def test_hue_shift_reaches_all_hues_and_keeps_grey():
    red = np.zeros((1, 4, 4, 3), np.uint8)
    red[..., 0] = 200
    channels = {
        augment.ColorJitter(0.0, 0.0, 0.0, 0.5)(red, rng(seed))[0, 0, 0].argmax() for seed in range(30)
    }
    assert channels == {0, 1, 2}
    grey = np.full((1, 4, 4, 3), 77, np.uint8)
    np.testing.assert_array_equal(augment.ColorJitter(0.0, 0.0, 0.9, 0.5)(grey, rng()), grey)


def test_erasing_replaces_one_rectangle_within_its_ranges():
    original = np.full((2, 40, 40, 3), 9, np.uint8)
    erasing = augment.RandomErasing(probability=1.0, area=(0.1, 0.3), aspect=(0.5, 2.0), fill=200)
    for seed in range(40):
        erased = (erasing(original, rng(seed)) == 200).all(-1)
        np.testing.assert_array_equal(erased[0], erased[1])
        rows, columns = erased[0].any(1), erased[0].any(0)
        np.testing.assert_array_equal(erased[0], rows[:, None] & columns[None, :])
        assert 0.08 < erased[0].mean() < 0.33 and 0.4 < rows.sum() / columns.sum() < 2.5
    fraction = np.mean([(augment.RandomErasing()(original, rng(seed)) != 9).any() for seed in range(400)])
    assert abs(fraction - 0.5) < 4 * 0.5 / 20


def test_rand_augment_equals_pillow_at_the_same_magnitude():
    original = frames()
    image = Image.fromarray(original[0])

    def apply(name, magnitude):
        return augment.RandAugment(1, magnitude, (name,))(original, rng())[0]

    np.testing.assert_array_equal(apply("solarize", 15), np.asarray(ImageOps.solarize(image, 128)))
    np.testing.assert_array_equal(apply("posterize", 30), np.asarray(ImageOps.posterize(image, 4)))
    sign = rng()
    sign.integers(1, size=1)
    degrees = 30 * 10 / 30 * float(sign.choice((-1.0, 1.0), 1)[0])
    expected = image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))
    np.testing.assert_array_equal(apply("rotate", 10), np.asarray(expected))
    for name, operation in augment.OPERATIONS.items():
        if operation.max_amount:
            np.testing.assert_allclose(apply(name, 0).astype(int), original[0], atol=0, err_msg=name)


def test_without_removes_only_the_forbidden_changes():
    jitter = augment.ColorJitter()
    assert jitter.without(frozenset({"color"})) == augment.ColorJitter(saturation=0.0, hue=0.0)
    assert jitter.without(frozenset({"brightness"})) == augment.ColorJitter(brightness=0.0, contrast=0.0)
    assert jitter.without(frozenset({"brightness", "color"})) is None
    restricted = augment.RandAugment().without(frozenset({"color", "shift"}))
    assert restricted.operations == (
        "identity",
        "rotate",
        "contrast",
        "brightness",
        "sharpness",
        "shear_x",
        "shear_y",
    )
    assert augment.RandAugment(operations=("rotate",)).without(frozenset({"rotate"})) is None
    for augmentation in (augment.Noise(), augment.Speed(), augment.WordDropout(), augment.SpanDropout()):
        assert augmentation.without(frozenset({"flip"})) is augmentation
        assert augmentation.without(augmentation.changes()) is None
    assert without((jitter, augment.RandomErasing()), frozenset({"erase"})) == (jitter,)


def test_random_numbers_do_not_depend_on_other_augmentations():
    """Streams of one ShareGeometry rule may therefore differ in their other augmentations."""

    def draws(*augmentations):
        return {
            (type(a).__name__, n): own.random()
            for n, (a, own) in enumerate(with_generators(augmentations, rng(5)))
        }

    rotate, jitter = augment.RandAugment(operations=("rotate",)), augment.ColorJitter()
    assert draws(rotate)["RandAugment", 0] == draws(jitter, rotate)["RandAugment", 1]
    twice = draws(rotate, rotate)
    assert twice["RandAugment", 0] != twice["RandAugment", 1]


# Audio


def transformed(augmentations, clip, generator=None, seconds=0.1, **options):
    transform = data.AudioTransform("wav", 8000, seconds, augmentations=augmentations, **options)
    return transform.augment(transform.decode({"__key__": "k", "wav": clip}), generator)


def test_noise_has_the_given_ratio_and_leaves_padding_unchanged(make):
    tone = make.tone(0.05).astype(np.float32)
    for snr_db in (0.0, 20.0):
        clean = transformed((), tone)
        noisy = transformed((augment.Noise((snr_db, snr_db), 1.0),), tone, rng())
        noise = (noisy.samples - clean.samples)[clean.mask]
        ratio = 10 * np.log10(np.mean(clean.samples[clean.mask] ** 2) / np.mean(noise**2))
        assert ratio == pytest.approx(snr_db, abs=1.0)
        np.testing.assert_array_equal(noisy.mask, clean.mask)
        assert not noisy.samples[~noisy.mask].any() and np.abs(noisy.samples).max() <= 1
    silence = transformed((augment.Noise(probability=1.0),), np.zeros(400, np.float32), rng())
    assert not silence.samples.any()


def test_noise_is_added_with_the_given_probability(make):
    tone = make.tone(0.05).astype(np.float32)
    clean = transformed((), tone).samples
    is_changed = [
        (transformed((augment.Noise(probability=0.3),), tone, rng(seed)).samples != clean).any()
        for seed in range(200)
    ]
    assert abs(np.mean(is_changed) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 200)


def test_background_adds_a_part_of_another_recording(make):
    hum = make.tone(0.5, hz=100.0).astype(np.float32)
    background = augment.Background(
        data.Arrays({"x": [hum]}), data.AudioTransform("x", 8000, 0.5), snr_db=(6.0, 6.0), probability=1.0
    )
    tone = make.tone(0.1, hz=1000.0).astype(np.float32)
    clean = transformed((), tone).samples
    added = [transformed((background,), tone, rng(seed)).samples - clean for seed in (0, 0, 1)]
    np.testing.assert_array_equal(added[0], added[1])
    assert np.abs(added[0] - added[2]).max() > 0.01, "the other seed must select another part"
    for noise in added:
        spectrum = np.abs(np.fft.rfft(noise))
        assert np.fft.rfftfreq(noise.size, 1 / 8000)[spectrum.argmax()] == 100
        assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(6.0, abs=0.2)
    short = dataclasses.replace(background, source=data.Arrays({"x": [hum[:80]]}))
    repeated = transformed((short,), tone, rng()).samples - clean
    np.testing.assert_allclose(repeated[:80], repeated[80:160], atol=1e-4)


def test_invalid_background_is_a_bad_example_and_an_empty_source_is_refused(make):
    tone = make.tone(0.05).astype(np.float32)
    transform = data.AudioTransform("x", 8000, 0.1)
    bad = augment.Background(data.Arrays({"x": [np.array([np.nan], np.float32)]}), transform, probability=1.0)
    with pytest.raises(data.BadExample, match=r"arrays\[0\]: expected finite samples"):
        transformed((bad,), tone, rng())
    empty = augment.Background(data.Arrays({"x": []}), transform, probability=1.0)
    with pytest.raises(InputError, match="Background expects recordings, found none in its source"):
        transformed((empty,), tone, rng())


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_speed_changes_pitch_and_length(make, factor):
    tone = make.tone(1.0, hz=400.0).astype(np.float32)
    audio = transformed((augment.Speed(factor, factor),), tone, rng(), seconds=0.5)
    assert audio.mask.all(), "enough must be decoded that faster playback fills the length"
    spectrum = np.abs(np.fft.rfft(audio.samples * np.hanning(audio.samples.size)))
    assert np.fft.rfftfreq(4000, 1 / 8000)[spectrum.argmax()] == pytest.approx(400 * factor, abs=3)
    short = transformed((augment.Speed(factor, factor),), tone[:2000], rng(), seconds=0.5)
    assert short.mask.sum() == pytest.approx(2000 / factor, abs=2)


# Errors and serialization

TOKENIZER = data.WordPiece(data.Jsonl("x.jsonl"), ("text",), vocab_size=45)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.ColorJitter(brightness=1.5), "ColorJitter.brightness' expects float from 0 to 1"),
        (lambda: augment.ColorJitter(hue=0.7), "ColorJitter.hue' expects float from 0 to 0.5"),
        (lambda: augment.RandomErasing(area=(0.5, 0.2)), "RandomErasing expects area (min, max), found"),
        (lambda: augment.RandomErasing(aspect=(0.0, 2.0)), "RandomErasing.aspect.0' expects float above 0"),
        (lambda: augment.RandomErasing(fill="mean"), "expects 'noise' or int from 0 to 255"),
        (lambda: augment.RandAugment(operations=("invert",)), "found ['invert']"),
        (lambda: augment.RandAugment(operations=()), "expects operations among ['identity', "),
        (lambda: augment.RandAugment(magnitude=31), "RandAugment.magnitude' expects float from 0 to 30"),
        (lambda: augment.Noise(snr_db=(9.0, 3.0)), "Noise expects snr_db (min, max), found (9.0, 3.0)"),
        (lambda: augment.Noise(probability=2.0), "Noise.probability' expects float from 0 to 1"),
        (lambda: augment.Speed(0.0, 1.0), "Speed.min_factor' expects float above 0"),
        (lambda: augment.Speed(2.0, 1.0), "Speed expects min_factor <= max_factor, found 2.0 and 1.0"),
        (lambda: augment.WordDropout(rate=-0.1), "WordDropout.rate' expects float from 0 to 1"),
        (lambda: augment.WordDropout(replace_with="gone"), "WordDropout.replace_with' expects"),
        (lambda: augment.SpanDropout(mean_length=0.5), "SpanDropout.mean_length' expects float from 1"),
        (
            lambda: data.ImageTransform("x", (4, 4), augmentations=(augment.Noise(),)),
            "'ImageTransform.augmentations.0' expects data.ImageAugmentation, found",
        ),
        (
            lambda: data.TextTransform("x", TOKENIZER, 4, augmentations=(augment.RandAugment,)),
            "'TextTransform.augmentations.0' expects data.TextAugmentation, found the class RandAugment",
        ),
        (
            lambda: data.AudioTransform(
                "x", 8000, 1.0, augmentations=(
                    augment.Background(data.Arrays({"x": []}), data.AudioTransform("x", 16000, 1.0)),
                )
            ),
            "expected a Background whose transform is an AudioTransform of 8000 Hz, found AudioTransform(",
        ),
    ],
)  # fmt: skip
def test_invalid_fields_are_refused(make, message):
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)


def test_augmentations_and_rules_survive_serialization():
    tokenizer = TOKENIZER
    dataset = data.Dataset(
        data.WebDataset("x.tar"),
        {
            "image": data.ImageTransform(
                "png",
                (8, 8),
                augmentations=(
                    augment.ColorJitter(),
                    augment.RandAugment(3, 5.0),
                    augment.RandomErasing(fill=0),
                ),
            ),
            "audio": data.AudioTransform(
                "wav",
                8000,
                1.0,
                augmentations=(
                    augment.Speed(),
                    augment.Noise(),
                    augment.Background(data.WebDataset("y.tar"), data.AudioTransform("wav", 8000, 5.0)),
                ),
            ),
            "text": data.TextTransform(
                "text", tokenizer, 8, augmentations=(augment.WordDropout(), augment.SpanDropout())
            ),
        },
        rules=(
            augment.ForbidChanges(
                "image", ("flip", "rotate"), text_stream="text", phrases=augment.SIDE_WORDS
            ),
        ),
    )
    text = serialize.to_text(dataset)
    assert "data.augment.RandAugment(" in text and "data.augment.ForbidChanges(" in text
    assert reading.from_text(text) == dataset and hash(reading.from_text(text).rules) == hash(dataset.rules)
