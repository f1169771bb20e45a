"""Augmentation rules, and augmentation as a function of (seed, step, row) only."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from mmjax import data
from mmjax.data import augment
from mmjax.errors import InputError

NAMES = ("a hand pointing Left", "a leftover red hat", "a hat", "right-facing fist")
WORDS = data.WordPiece(data.Arrays({"name": list(NAMES)}), ("name",), vocab_size=60)
FLIP = augment.ForbidChanges("image", ("flip",), text_stream="name", phrases=augment.SIDE_WORDS)
HUE = augment.ForbidChanges("image", ("color",), text_stream="name", phrases=augment.COLOR_WORDS)


def halves(seed: int = 0) -> np.ndarray:
    """An image whose left half is dark and blue, and right half bright and orange."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8, 2], pixels[:, 8:, 0], pixels[:, 8:, 1] = 120, 250, 160
    return pixels


def dataset(rules=(), names=NAMES, source=None, **options) -> data.Dataset:
    image_options = dict(flip=True, mean=0.0, std=1.0) | options
    arrays = {"name": list(names), "picture": [halves() for _ in names], "depth": [halves() for _ in names]}
    return data.Dataset(
        source or data.Arrays(arrays),
        {
            "image": data.ImageTransform("picture", (16, 16), **image_options),
            "name": data.TextTransform("name", WORDS, 24, optional=True),
        },
        rules=rules,
    )


def is_flipped(pixels: np.ndarray) -> bool:
    return pixels[:, :4].mean() > pixels[:, -4:].mean()


def augmented(examples, index: int, num: int = 60) -> np.ndarray:
    """The images of one example under many seeds."""
    return np.stack(
        [examples.example(index, np.random.default_rng(seed))["image"].pixels for seed in range(num)]
    )


def test_images_are_never_flipped_if_the_text_names_a_side():
    examples = dataset((FLIP,)).open()
    for index, name in enumerate(NAMES):
        flipped = any(is_flipped(pixels) for pixels in augmented(examples, index))
        assert flipped == (index in (1, 2)), name
    assert any(is_flipped(pixels) for pixels in augmented(dataset().open(), 0)), (
        "without the rule it may be flipped"
    )


def test_colours_stay_unchanged_if_the_text_names_one():
    jitter = (augment.ColorJitter(brightness=0.0, contrast=0.0, hue=0.5), augment.RandAugment())
    examples = dataset((HUE,), flip=False, augmentations=jitter[:1]).open()
    np.testing.assert_array_equal(augmented(examples, 1, 20), np.repeat(augmented(examples, 1, 1), 20, 0))
    assert np.ptp(augmented(examples, 2, 20), axis=0).max() > 0.2
    # RandAugment goes on with its operations that do not change colours.
    examples = dataset((HUE,), flip=False, augmentations=jitter).open()
    images = augmented(examples, 1, 20)
    assert np.ptp(images, axis=0).max() > 0.2
    # The sign of red minus blue does not depend on brightness: positive in orange, negative in blue.
    assert (images[:, 8, 12, 0] >= images[:, 8, 12, 2]).all() and (
        images[:, 8, 2, 0] <= images[:, 8, 2, 2] + 0.51
    ).all()


def test_rules_apply_with_the_cache_and_to_every_text_that_may_be_shown():
    names = data.TextTransform(("name", "other"), WORDS, 24, choose="random")
    source = data.Arrays({"name": ["a hat"], "other": ["a hat to the left"], "picture": [halves()]})
    cached = dataset((FLIP,), source=source)
    cached = dataclasses.replace(cached, streams=cached.streams | {"name": names}, cache=True)
    assert not any(is_flipped(pixels) for pixels in augmented(cached.open(), 0))
    first = dataclasses.replace(names, field="name")
    unrestricted = dataclasses.replace(cached, streams=cached.streams | {"name": first})
    assert any(is_flipped(pixels) for pixels in augmented(unrestricted.open(), 0))


def test_examples_without_text_are_not_restricted():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Nameless:
        def open(self):
            return self

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"__key__": "k", "picture": halves()}

    assert any(is_flipped(pixels) for pixels in augmented(dataset((FLIP,), source=Nameless()).open(), 0))


@pytest.mark.parametrize(
    ("phrases", "text", "expected"),
    [
        (("left",), "LEFT!", True),
        (("left",), "left-facing fist", True),
        (("left",), "leftover", False),
        (("on the left",), "a cat on the left", True),
        (("on the left",), "the left", False),
        (("左",), "左手", True),
        (("esquerda",), "à esquerda,", True),
        (("3",), "13", False),
        (("c++", "left"), "nothing", False),
    ],
)
def test_phrases_match_whole_words_regardless_of_case(phrases, text, expected):
    assert (
        augment.ForbidChanges("image", ("flip",), text_stream="text", phrases=phrases).matches(text)
        == expected
    )


def pairs(*rules, depth=None, **options) -> data.Dataset:
    unrelated = dataset(crop_scale=(0.3, 0.9), shift=3, **options)
    streams = dict(unrelated.streams)
    depth = dataclasses.replace(streams["image"], **{"field": "depth"} | (depth or {}))
    # A stream that draws random numbers stands between the two.
    streams["name"] = dataclasses.replace(streams["name"], augmentations=(augment.WordDropout(),))
    return dataclasses.replace(unrelated, streams=streams | {"depth": depth}, rules=rules)


def test_share_geometry_changes_streams_alike():
    rotate = augment.RandAugment(operations=("rotate", "shear_x", "translate_y"), magnitude=20)
    sharing = pairs(augment.ShareGeometry(("image", "depth")), augmentations=(rotate,))
    independent = pairs(augmentations=(rotate,))
    for seed in range(10):
        example = sharing.open().example(2, np.random.default_rng(seed))
        np.testing.assert_array_equal(example["image"].pixels, example["depth"].pixels)
        other = independent.open().example(2, np.random.default_rng(seed))
        assert (other["image"].pixels != other["depth"].pixels).any()
    assert len({e.tobytes() for e in augmented(sharing.open(), 2, 10)}) == 10


def test_share_geometry_allows_other_augmentations_of_one_stream():
    rotate = augment.RandAugment(operations=("rotate",), magnitude=20)
    sharing = pairs(
        augment.ShareGeometry(("image", "depth")),
        augmentations=(augment.RandomErasing(probability=1.0, fill=0), rotate),
        depth={"augmentations": (rotate,)},
    )
    for seed in range(10):
        example = sharing.open().example(2, np.random.default_rng(seed))
        image, depth = example["image"].pixels, example["depth"].pixels
        assert (image != depth).any()
        assert np.isclose(image, depth).mean() > 0.35, "they are equal where nothing was erased"


def test_share_geometry_restricts_its_streams_together():
    sharing = pairs(FLIP, augment.ShareGeometry(("image", "depth")))
    for seed in range(40):
        example = sharing.open().example(0, np.random.default_rng(seed))
        np.testing.assert_array_equal(example["image"].pixels, example["depth"].pixels)
        assert not is_flipped(example["depth"].pixels)


def fully_augmented(cache: bool = False) -> data.Dataset:
    """A dataset with every augmentation and two rules."""
    rng = np.random.default_rng(0)
    arrays = {
        "picture": [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(6)],
        "sound": [rng.uniform(-0.5, 0.5, 400).astype(np.float32) for _ in range(6)],
        "name": [*NAMES, "one hat", "two hats"],
    }
    tokenizer = data.WordPiece(data.Arrays({"name": arrays["name"]}), ("name",), vocab_size=68)
    hum = data.Arrays({"x": [rng.uniform(-0.1, 0.1, 900).astype(np.float32)]})
    return data.Dataset(
        data.Arrays(arrays),
        {
            "image": data.ImageTransform(
                "picture",
                (8, 8),
                crop_scale=(0.5, 1.0),
                flip=True,
                augmentations=(augment.ColorJitter(), augment.RandAugment(), augment.RandomErasing()),
            ),
            "audio": data.AudioTransform(
                "sound",
                1000,
                0.3,
                shift_seconds=0.05,
                augmentations=(
                    augment.Speed(),
                    augment.Noise(),
                    augment.Background(hum, data.AudioTransform("x", 1000, 0.9)),
                ),
            ),
            "name": data.TextTransform(
                "name", tokenizer, 24, augmentations=(augment.WordDropout(), augment.SpanDropout())
            ),
        },
        cache=cache,
        rules=(FLIP, HUE),
    )


def load(mixture, **options):
    return [batch for batch, _ in data.batches(mixture, seed=7, start_step=2, num_steps=4, **options)]


def leaves(batch):
    """The arrays by name, without fields that only views set."""
    arrays = {f"{name}.{field}": x for name, stream in batch.items() for field, x in vars(stream).items()}
    return {name: x for name, x in arrays.items() if x is not None}


def test_augmentation_depends_only_on_seed_step_and_row():
    """Not on threads, the rows that a process loads, their order, or the cache."""
    whole = load(data.Mixture.of(fully_augmented(), batch_size=5), num_threads=0)
    rows = np.array([4, 0, 2])
    for cache, threads in ((False, 3), (True, 0)):
        mixture = data.Mixture.of(fully_augmented(cache), batch_size=5)
        part = load(mixture, num_threads=threads, rows=rows)
        for whole_batch, part_batch in zip(whole, part, strict=True):
            for name, array in leaves(part_batch).items():
                np.testing.assert_array_equal(array, leaves(whole_batch)[name][rows], err_msg=name)
    other_seed = [b for b, _ in data.batches(mixture, seed=8, start_step=2, num_steps=4)]
    assert any(
        (leaves(a)[n] != leaves(b)[n]).any()
        for a, b in zip(whole, other_seed, strict=True)
        for n in leaves(a)
    )


def test_evaluation_data_are_never_augmented():
    augmenting = fully_augmented()
    plain = dataclasses.replace(
        augmenting,
        streams={
            name: dataclasses.replace(transform, augmentations=())
            for name, transform in augmenting.streams.items()
        },
        rules=(),
    )
    for batch, expected in zip(data.epoch(augmenting, 4), data.epoch(plain, 4), strict=True):
        for name, array in leaves(expected).items():
            if name.startswith("audio"):  # Speed decodes more samples, of which the same ones are kept
                np.testing.assert_allclose(leaves(batch)[name], array, atol=1e-6)
            else:
                np.testing.assert_array_equal(leaves(batch)[name], array, err_msg=name)


WITH_WORKERS = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from mmjax import data
from test_joint import fully_augmented, leaves
def main():
    for workers in (0, 2):
        digest = hashlib.sha256()
        mixture = data.Mixture.of(fully_augmented(), batch_size=3)
        for batch, _ in data.batches(mixture, seed=5, start_step=3, num_steps=7, num_workers=workers):
            for _, array in sorted(leaves(batch).items()):
                digest.update(np.ascontiguousarray(array).tobytes())
        print(digest.hexdigest())
if __name__ == "__main__":
    main()
"""


def test_worker_processes_give_the_same_batches(tmp_path):
    script = tmp_path / "with_workers.py"
    script.write_text(WITH_WORKERS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(script), os.path.dirname(__file__)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    without_workers, with_workers = done.stdout.split()
    assert without_workers == with_workers


def labelled(rules):
    unlabelled = dataset(rules)
    return dataclasses.replace(
        unlabelled, streams=unlabelled.streams | {"class": data.LabelTransform("name", NAMES)}
    )


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            lambda: augment.ForbidChanges("image", ("mirror",), "name", ("left",)),
            "'ForbidChanges.changes.0' expects",
        ),
        (
            lambda: augment.ForbidChanges("image", ("flip",), "name", ()),
            "ForbidChanges expects non-empty phrases, found ()",
        ),
        (
            lambda: augment.ForbidChanges("photo", ("flip",), "name", ("left",)),
            "ForbidChanges expects a stream with augmentations among ['image', 'name'], found ['photo']",
        ),
        (
            lambda: augment.ForbidChanges("image", ("flip",), "class", ("left",)),
            "ForbidChanges expects a stream with text (TextTransform) among ['name'], found ['class']",
        ),
        (
            lambda: augment.ShareGeometry(("image",)),
            "ShareGeometry expects at least two streams, found ['image']",
        ),
        (
            lambda: augment.ShareGeometry(("image", "name")),
            "ShareGeometry expects a stream of images or audio among ['image'], found ['name']",
        ),
    ],
)
def test_rules_that_do_not_fit_the_dataset_are_refused(rule, message):
    with pytest.raises(InputError) as caught:
        labelled((rule(),))
    assert message in str(caught.value)


def test_share_geometry_of_unequal_transforms_is_refused():
    rule = augment.ShareGeometry(("image", "depth"))
    for other in ({"flip": False}, {"shift": 1}, {"field": ("depth", "picture")}, {"size": (8, 8)}):
        with pytest.raises(InputError, match="ShareGeometry expects equal geometry of 'image' and 'depth'"):
            pairs(rule, depth=other)
    with pytest.raises(
        InputError, match="expected each stream in at most one ShareGeometry, found .'depth', 'image'."
    ):
        pairs(rule, rule)
