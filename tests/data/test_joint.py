"""Augmentation never breaks a pair, and is a function of (seed, step, row) alone."""

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
    """Left dark and blue, right bright and orange."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8, 2], pixels[:, 8:, 0], pixels[:, 8:, 1] = 120, 250, 160
    return pixels


def dataset(rules=(), names=NAMES, source=None, **options) -> data.Dataset:
    spec = dict(flip=True, mean=0.0, std=1.0) | options
    pictures = {"name": list(names), "picture": [halves() for _ in names], "depth": [halves() for _ in names]}
    return data.Dataset(
        source or data.Arrays(pictures),
        {
            "image": data.ImageTransform("picture", (16, 16), **spec),
            "name": data.TextTransform("name", WORDS, 24, optional=True),
        },
        rules=rules,
    )


def mirrored(pixels: np.ndarray) -> bool:
    return pixels[:, :4].mean() > pixels[:, -4:].mean()


def seen(examples, index: int, num: int = 60) -> np.ndarray:
    """The pictures of one example under many seeds."""
    return np.stack(
        [examples.example(index, np.random.default_rng(seed))["image"].pixels for seed in range(num)]
    )


def test_pictures_are_never_mirrored_where_the_words_say_a_side():
    examples = dataset((FLIP,)).open()
    for index, name in enumerate(NAMES):
        ever = any(mirrored(pixels) for pixels in seen(examples, index))
        assert ever == (index in (1, 2)), name
    assert any(mirrored(pixels) for pixels in seen(dataset().open(), 0)), "without the rule it is"


def test_colours_are_left_alone_where_the_words_name_one():
    jitter = (augment.ColorJitter(brightness=0.0, contrast=0.0, hue=0.5), augment.RandAugment())
    examples = dataset((HUE,), flip=False, augmentations=jitter[:1]).open()
    np.testing.assert_array_equal(seen(examples, 1, 20), np.repeat(seen(examples, 1, 1), 20, 0))
    assert np.ptp(seen(examples, 2, 20), axis=0).max() > 0.2
    # What does not touch colour goes on: a picture of RandAugment's other operations.
    examples = dataset((HUE,), flip=False, augmentations=jitter).open()
    turned = seen(examples, 1, 20)
    assert np.ptp(turned, axis=0).max() > 0.2
    # Orange on blue: of the colours' differences, those of red and blue keep their sign, whatever the light.
    assert (turned[:, 8, 12, 0] >= turned[:, 8, 12, 2]).all() and (
        turned[:, 8, 2, 0] <= turned[:, 8, 2, 2] + 0.51
    ).all()


def test_rules_hold_with_the_cache_and_for_every_text_that_could_be_shown():
    names = data.TextTransform(("name", "other"), WORDS, 24, choose="random")
    source = data.Arrays({"name": ["a hat"], "other": ["a hat to the left"], "picture": [halves()]})
    made = dataset((FLIP,), source=source)
    made = dataclasses.replace(made, streams=made.streams | {"name": names}, cache=True)
    assert not any(mirrored(pixels) for pixels in seen(made.open(), 0))
    first = dataclasses.replace(names, field="name")
    free = dataclasses.replace(made, streams=made.streams | {"name": first})
    assert any(mirrored(pixels) for pixels in seen(free.open(), 0))


def test_an_example_without_words_is_free():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Nameless:
        def open(self):
            return self

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"__key__": "k", "picture": halves()}

    assert any(mirrored(pixels) for pixels in seen(dataset((FLIP,), source=Nameless()).open(), 0))


@pytest.mark.parametrize(
    ("says", "words", "holds"),
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
def test_what_counts_as_said(says, words, holds):
    assert augment.ForbidChanges("image", ("flip",), text_stream="text", phrases=says).matches(words) == holds


def pairs(*rules, depth=None, **options) -> data.Dataset:
    made = dataset(crop_scale=(0.3, 0.9), shift=3, **options)
    streams = dict(made.streams)
    depth = dataclasses.replace(streams["image"], **{"field": "depth"} | (depth or {}))
    # Something that draws stands between the two.
    streams["name"] = dataclasses.replace(streams["name"], augmentations=(augment.WordDropout(),))
    return dataclasses.replace(made, streams=streams | {"depth": depth}, rules=rules)


def test_streams_that_are_moved_together_share_the_draw():
    turn = augment.RandAugment(operations=("rotate", "shear_x", "translate_y"), magnitude=20)
    made = pairs(augment.ShareGeometry(("image", "depth")), augmentations=(turn,))
    apart = pairs(augmentations=(turn,))
    for seed in range(10):
        example = made.open().example(2, np.random.default_rng(seed))
        np.testing.assert_array_equal(example["image"].pixels, example["depth"].pixels)
        other = apart.open().example(2, np.random.default_rng(seed))
        assert (other["image"].pixels != other["depth"].pixels).any()
    assert len({e.tobytes() for e in seen(made.open(), 2, 10)}) == 10


def test_one_of_them_may_change_colour_as_well():
    turn = augment.RandAugment(operations=("rotate",), magnitude=20)
    made = pairs(
        augment.ShareGeometry(("image", "depth")),
        augmentations=(augment.RandomErasing(probability=1.0, fill=0), turn),
        depth={"augmentations": (turn,)},
    )
    for seed in range(10):
        example = made.open().example(2, np.random.default_rng(seed))
        image, depth = example["image"].pixels, example["depth"].pixels
        assert (image != depth).any()
        assert np.isclose(image, depth).mean() > 0.35, "where nothing was erased they lie upon each other"


def test_streams_that_are_moved_together_are_held_back_together():
    made = pairs(FLIP, augment.ShareGeometry(("image", "depth")))
    for seed in range(40):
        example = made.open().example(0, np.random.default_rng(seed))
        np.testing.assert_array_equal(example["image"].pixels, example["depth"].pixels)
        assert not mirrored(example["depth"].pixels)


def busy(cache: bool = False) -> data.Dataset:
    """Every kind of augmentation and rule at once."""
    rng = np.random.default_rng(0)
    arrays = {
        "picture": [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(6)],
        "sound": [rng.uniform(-0.5, 0.5, 400).astype(np.float32) for _ in range(6)],
        "name": [*NAMES, "one hat", "two hats"],
    }
    words = data.WordPiece(data.Arrays({"name": arrays["name"]}), ("name",), vocab_size=68)
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
                "name", words, 24, augmentations=(augment.WordDropout(), augment.SpanDropout())
            ),
        },
        cache=cache,
        rules=(FLIP, HUE),
    )


def take(mixture, **options):
    return [batch for batch, _ in data.batches(mixture, seed=7, start_step=2, num_steps=4, **options)]


def leaves(batch):
    """The arrays by name; what only views fill is None."""
    arrays = {f"{name}.{field}": x for name, stream in batch.items() for field, x in vars(stream).items()}
    return {name: x for name, x in arrays.items() if x is not None}


def test_augmentation_is_a_function_of_seed_step_and_row():
    """Whatever the threads, the rows that a process loads and their order, and the cache."""
    whole = take(data.Mixture.of(busy(), batch_size=5), num_threads=0)
    rows = np.array([4, 0, 2])
    for cache, threads in ((False, 3), (True, 0)):
        mixture = data.Mixture.of(busy(cache), batch_size=5)
        for one, two in zip(whole, take(mixture, num_threads=threads, rows=rows), strict=True):
            for name, array in leaves(two).items():
                np.testing.assert_array_equal(array, leaves(one)[name][rows], err_msg=name)
    again = [b for b, _ in data.batches(mixture, seed=8, start_step=2, num_steps=4)]
    assert any(
        (leaves(a)[n] != leaves(b)[n]).any() for a, b in zip(whole, again, strict=True) for n in leaves(a)
    )


def test_evaluation_data_are_never_augmented():
    plain = busy()
    bare = dataclasses.replace(
        plain,
        streams={
            name: dataclasses.replace(transform, augmentations=())
            for name, transform in plain.streams.items()
        },
        rules=(),
    )
    for one, two in zip(data.epoch(plain, 4), data.epoch(bare, 4), strict=True):
        for name, array in leaves(two).items():
            if name.startswith("audio"):  # more of it was decoded, for the speed; the same is kept
                np.testing.assert_allclose(leaves(one)[name], array, atol=1e-6)
            else:
                np.testing.assert_array_equal(leaves(one)[name], array, err_msg=name)


WITH_WORKERS = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from mmjax import data
from test_joint import busy, leaves
def main():
    for workers in (0, 2):
        digest = hashlib.sha256()
        mixture = data.Mixture.of(busy(), batch_size=3)
        for batch, _ in data.batches(mixture, seed=5, start_step=3, num_steps=7, num_workers=workers):
            for _, array in sorted(leaves(batch).items()):
                digest.update(np.ascontiguousarray(array).tobytes())
        print(digest.hexdigest())
if __name__ == "__main__":
    main()
"""


def test_worker_processes_change_nothing(tmp_path):
    script = tmp_path / "with_workers.py"
    script.write_text(WITH_WORKERS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(script), os.path.dirname(__file__)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone, together = done.stdout.split()
    assert alone == together


def labelled(rules):
    made = dataset(rules)
    return dataclasses.replace(made, streams=made.streams | {"class": data.LabelTransform("name", NAMES)})


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            lambda: augment.ForbidChanges("image", ("flip",), "name", ("left",)),
            "ForbidChanges expects changes among ['color',",
        ),
        (
            lambda: augment.ForbidChanges("image", ("flip",), "name", ()),
            "ForbidChanges expects words in `says`, found ()",
        ),
        (
            lambda: augment.ForbidChanges("photo", ("flip",), "name", ("left",)),
            "ForbidChanges expects a stream that can be augmented among ['image', 'name'], found ['photo']",
        ),
        (
            lambda: augment.ForbidChanges("image", ("flip",), "class", ("left",)),
            "ForbidChanges expects a stream of words (TextTransform) among ['name'], found ['class']",
        ),
        (lambda: augment.ShareGeometry(("image",)), "Together expects at least two streams, found ['image']"),
        (
            lambda: augment.ShareGeometry(("image", "name")),
            "Together expects a stream of pictures or recordings among ['image'], found ['name']",
        ),
    ],
)
def test_rules_that_fit_nothing_are_refused(rule, words):
    with pytest.raises(InputError) as caught:
        labelled((rule(),))
    assert words in str(caught.value)


def test_streams_that_would_be_moved_otherwise_are_refused():
    together = augment.ShareGeometry(("image", "depth"))
    for other in ({"flip": False}, {"shift": 1}, {"field": ("depth", "picture")}, {"size": (8, 8)}):
        with pytest.raises(InputError, match="Together expects what moves 'image' and 'depth' to be equal"):
            pairs(together, depth=other)
    with pytest.raises(
        InputError, match="expected each stream in one Together at most, found .'depth', 'image'."
    ):
        pairs(together, together)
