"""Augmentations: what each changes and leaves alone, that it is a function of its generator, and refusals."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from mmjax import data
from mmjax.data import augment
from mmjax.data.augment.base import with_generators, without
from mmjax.errors import InputError
from mmjax.experiment import serialize


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def frames(num: int = 1, height: int = 16, width: int = 24, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth pictures: noise would be grey once it is turned or blurred."""
    small = rng(seed).integers(30, 220, (num, 4, 4, channels), np.uint8)
    return np.stack(
        [
            np.stack(
                [np.asarray(Image.fromarray(f[..., c]).resize((width, height))) for c in range(channels)], -1
            )
            for f in small
        ]
    )


def of_every_kind() -> list[augment.ImageAugmentation]:
    jitters = [augment.ColorJitter(), augment.RandomErasing(probability=1.0), augment.RandAugment()]
    return jitters + [
        augment.RandAugment(num_operations=1, operations=(name,), magnitude=20) for name in augment.OPERATIONS
    ]


def name_of(augmentation) -> str:
    some = getattr(augmentation, "operations", ())
    return some[0] if len(some) == 1 else type(augmentation).__name__


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", of_every_kind(), ids=name_of)
def test_pictures_keep_their_shape_and_change_with_the_generator_alone(augmentation, channels):
    given = frames(channels=channels)
    before = given.copy()
    made = [augmentation(given, rng(seed)) for seed in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(given, before)
    assert all(one.shape == given.shape and one.dtype == np.uint8 for one in made)
    np.testing.assert_array_equal(made[0], made[1])
    idle = name_of(augmentation) == "identity" or (channels == 1 and name_of(augmentation) == "color")
    assert any((one != given).any() for one in made) == (not idle)


@pytest.mark.parametrize("augmentation", of_every_kind(), ids=name_of)
def test_the_frames_of_a_clip_share_the_draw(augmentation):
    still = np.repeat(frames(), 5, axis=0)
    for seed in range(4):
        made = augmentation(still, rng(seed))
        np.testing.assert_array_equal(made, np.repeat(made[:1], 5, axis=0))


def test_a_clip_is_lit_as_a_whole():
    """By each frame's own mean, contrast would make a steady light flicker."""
    clip = np.concatenate([np.full((1, 4, 4, 1), 50, np.uint8), np.full((1, 4, 4, 1), 150, np.uint8)])
    jitter = augment.ColorJitter(brightness=0.0, contrast=1.0)
    for seed in range(5):
        made = jitter(clip, rng(seed)).astype(int)
        assert made[0].mean() != 50 and made[0].mean() + made[1].mean() == pytest.approx(200, abs=2)


def test_color_jitter_is_what_pillow_makes_of_its_draws():
    given = frames()
    picture = Image.fromarray(given[0])
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
        alone = dataclasses.replace(augment.ColorJitter(0.0, 0.0, 0.0, 0.0), **{field: 0.8})
        expected = enhancer(picture).enhance(1 + 0.8 * float(amounts[n]))
        np.testing.assert_array_equal(alone(given, rng(3))[0], np.asarray(expected))


def test_hue_turns_the_circle_and_leaves_grey_alone():
    red = np.zeros((1, 4, 4, 3), np.uint8)
    red[..., 0] = 200
    seen = {augment.ColorJitter(0.0, 0.0, 0.0, 0.5)(red, rng(seed))[0, 0, 0].argmax() for seed in range(30)}
    assert seen == {0, 1, 2}
    grey = np.full((1, 4, 4, 3), 77, np.uint8)
    np.testing.assert_array_equal(augment.ColorJitter(0.0, 0.0, 0.9, 0.5)(grey, rng()), grey)


def test_erasing_replaces_one_rectangle_within_its_ranges():
    given = np.full((2, 40, 40, 3), 9, np.uint8)
    erasing = augment.RandomErasing(probability=1.0, area=(0.1, 0.3), aspect=(0.5, 2.0), fill=200)
    for seed in range(40):
        gone = (erasing(given, rng(seed)) == 200).all(-1)
        np.testing.assert_array_equal(gone[0], gone[1])
        down, right = gone[0].any(1), gone[0].any(0)
        np.testing.assert_array_equal(gone[0], down[:, None] & right[None, :])
        assert 0.08 < gone[0].mean() < 0.33 and 0.4 < down.sum() / right.sum() < 2.5
    often = np.mean([(augment.RandomErasing()(given, rng(seed)) != 9).any() for seed in range(400)])
    assert abs(often - 0.5) < 4 * 0.5 / 20


def test_rand_augment_draws_all_its_operations_at_their_strength():
    given = frames()
    picture = Image.fromarray(given[0])
    one = lambda name, magnitude: augment.RandAugment(1, magnitude, (name,))(given, rng())[0]  # noqa: E731
    np.testing.assert_array_equal(one("solarize", 15), np.asarray(ImageOps.solarize(picture, 128)))
    np.testing.assert_array_equal(one("posterize", 30), np.asarray(ImageOps.posterize(picture, 4)))
    sign = rng()
    sign.integers(1, size=1)
    degrees = 30 * 10 / 30 * float(sign.choice((-1.0, 1.0), 1)[0])
    expected = picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))
    np.testing.assert_array_equal(one("rotate", 10), np.asarray(expected))
    for name, operation in augment.OPERATIONS.items():
        if operation.most:
            np.testing.assert_allclose(one(name, 0).astype(int), given[0], atol=0, err_msg=name)


def test_what_an_augmentation_makes_of_a_ban():
    jitter = augment.ColorJitter()
    assert jitter.without(frozenset({"color"})) == augment.ColorJitter(saturation=0.0, hue=0.0)
    assert jitter.without(frozenset({"brightness"})) == augment.ColorJitter(brightness=0.0, contrast=0.0)
    assert jitter.without(frozenset({"brightness", "color"})) is None
    left = augment.RandAugment().without(frozenset({"color", "shift"}))
    assert left.operations == (
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


def test_what_one_draws_depends_on_no_other():
    """So that streams with other augmentations beside them can share the draws of those that move."""

    def draws(*augmentations):
        return {
            (type(a).__name__, n): own.random()
            for n, (a, own) in enumerate(with_generators(augmentations, rng(5)))
        }

    turn, jitter = augment.RandAugment(operations=("rotate",)), augment.ColorJitter()
    assert draws(turn)["RandAugment", 0] == draws(jitter, turn)["RandAugment", 1]
    twice = draws(turn, turn)
    assert twice["RandAugment", 0] != twice["RandAugment", 1]


# Recordings


def heard(augmentations, clip, generator=None, seconds=0.1, **options):
    transform = data.AudioTransform("wav", 8000, seconds, augmentations=augmentations, **options)
    return transform.augment(transform.decode({"__key__": "k", "wav": clip}), generator)


def test_noise_has_the_asked_ratio_and_leaves_padding_alone(make):
    tone = make.tone(0.05).astype(np.float32)
    for least in (0.0, 20.0):
        quiet, loud = heard((), tone), heard((augment.Noise((least, least), 1.0),), tone, rng())
        noise = (loud.samples - quiet.samples)[quiet.mask]
        ratio = 10 * np.log10(np.mean(quiet.samples[quiet.mask] ** 2) / np.mean(noise**2))
        assert ratio == pytest.approx(least, abs=1.0)
        np.testing.assert_array_equal(loud.mask, quiet.mask)
        assert not loud.samples[~loud.mask].any() and np.abs(loud.samples).max() <= 1
    silence = heard((augment.Noise(probability=1.0),), np.zeros(400, np.float32), rng())
    assert not silence.samples.any()


def test_noise_is_drawn_as_often_as_asked(make):
    tone = make.tone(0.05).astype(np.float32)
    quiet = heard((), tone).samples
    often = [
        (heard((augment.Noise(probability=0.3),), tone, rng(seed)).samples != quiet).any()
        for seed in range(200)
    ]
    assert abs(np.mean(often) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 200)


def test_background_is_a_piece_of_another_recording(make):
    hum = make.tone(0.5, hz=100.0).astype(np.float32)
    beneath = augment.Background(
        data.Arrays({"x": [hum]}), data.AudioTransform("x", 8000, 0.5), snr_db=(6.0, 6.0), probability=1.0
    )
    tone = make.tone(0.1, hz=1000.0).astype(np.float32)
    quiet = heard((), tone).samples
    pieces = [heard((beneath,), tone, rng(seed)).samples - quiet for seed in (0, 0, 1)]
    np.testing.assert_array_equal(pieces[0], pieces[1])
    assert np.abs(pieces[0] - pieces[2]).max() > 0.01, "another place in the recording"
    for piece in pieces:
        spectrum = np.abs(np.fft.rfft(piece))
        assert np.fft.rfftfreq(piece.size, 1 / 8000)[spectrum.argmax()] == 100
        assert 10 * np.log10(np.mean(quiet**2) / np.mean(piece**2)) == pytest.approx(6.0, abs=0.2)
    short = dataclasses.replace(beneath, source=data.Arrays({"x": [hum[:80]]}))
    repeated = heard((short,), tone, rng()).samples - quiet
    np.testing.assert_allclose(repeated[:80], repeated[80:160], atol=1e-4)


def test_a_bad_background_is_a_bad_example_and_none_is_refused(make):
    tone = make.tone(0.05).astype(np.float32)
    transform = data.AudioTransform("x", 8000, 0.1)
    bad = augment.Background(data.Arrays({"x": [np.array([np.nan], np.float32)]}), transform, probability=1.0)
    with pytest.raises(data.BadExample, match=r"arrays\[0\]: expected finite samples"):
        heard((bad,), tone, rng())
    none = augment.Background(data.Jsonl(make.jsonl([])), transform, probability=1.0)
    with pytest.raises(InputError, match="Background expects recordings, found none in its source"):
        heard((none,), tone, rng())


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_speed_changes_pitch_and_length(make, factor):
    tone = make.tone(1.0, hz=400.0).astype(np.float32)
    audio = heard((augment.Speed(factor, factor),), tone, rng(), seconds=0.5)
    assert audio.mask.all(), "more was decoded than is kept, so that faster is not shorter"
    spectrum = np.abs(np.fft.rfft(audio.samples * np.hanning(audio.samples.size)))
    assert np.fft.rfftfreq(4000, 1 / 8000)[spectrum.argmax()] == pytest.approx(400 * factor, abs=3)
    short = heard((augment.Speed(factor, factor),), tone[:2000], rng(), seconds=0.5)
    assert short.mask.sum() == pytest.approx(2000 / factor, abs=2)


# Refusals, and texts of experiments


@pytest.mark.parametrize(
    ("make_one", "words"),
    [
        (lambda: augment.ColorJitter(brightness=1.5), "expects brightness from 0 to 1, found 1.5"),
        (lambda: augment.ColorJitter(hue=0.7), "ColorJitter expects hue from 0 to 0.5, found 0.7"),
        (lambda: augment.RandomErasing(area=(0.5, 0.2)), "expects area (least, most) between 0 and 1"),
        (lambda: augment.RandomErasing(aspect=(0.0, 2.0)), "expects aspect (least, most) above 0"),
        (lambda: augment.RandomErasing(fill="mean"), "fill='noise' or a grey level to 255, found 'mean'"),
        (lambda: augment.RandAugment(operations=("invert",)), "found ['invert']"),
        (lambda: augment.RandAugment(operations=()), "expects operations among ['identity', "),
        (lambda: augment.RandAugment(magnitude=31), "expects a magnitude from 0 to 30 and at least"),
        (lambda: augment.Noise(snr_db=(9.0, 3.0)), "Noise expects snr_db (least, most), found (9.0, 3.0)"),
        (lambda: augment.Noise(probability=2.0), "Noise expects probability from 0 to 1, found 2.0"),
        (lambda: augment.Speed(0.0, 1.0), "Speed expects 0 < least <= most, found 0.0 and 1.0"),
        (lambda: augment.WordDropout(rate=-0.1), "expects rate from 0 to 1, found -0.1"),
        (lambda: augment.WordDropout(replace_with="gone"), "or 'nothing', found 'gone'"),
        (lambda: augment.SpanDropout(mean_length=0.5), "expects mean_length and max_length of at least 1"),
        (
            lambda: data.ImageTransform("x", (4, 4), augmentations=(augment.Noise(),)),
            "ImageTransform expects augmentations among data.augment.['ColorJitter', 'RandAugment', 'Random",
        ),
        (
            lambda: data.TextTransform("x", None, 4, augmentations=(augment.RandAugment,)),
            "TextTransform expects augmentations among data.augment.['SpanDropout', 'WordDropout'], found",
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
def test_what_makes_no_sense_is_refused(make_one, words):
    with pytest.raises(InputError) as caught:
        make_one()
    assert words in str(caught.value)


def test_augmentations_are_written_down_and_read_back():
    words = data.WordPiece(data.Jsonl("x.jsonl"), ("text",), vocab_size=45)
    made = data.Dataset(
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
                "text", words, 8, augmentations=(augment.WordDropout(), augment.SpanDropout())
            ),
        },
        rules=(
            augment.ForbidChanges(
                "image", ("flip", "rotate"), text_stream="text", phrases=augment.SIDE_WORDS
            ),
        ),
    )
    text = serialize.to_text(made)
    assert "data.augment.RandAugment(" in text and "data.augment.ForbidChanges(" in text
    assert serialize.from_text(text) == made and hash(serialize.from_text(text).rules) == hash(made.rules)
