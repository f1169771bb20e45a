"""Draws augmented images, and measures how much augmentation slows the loader.

    python experiments/benchmarks/augmentation.py picture    # writes docs/pictures/augmentations.png
    python experiments/benchmarks/augmentation.py speed      # a minute on one core

Both read the embedded emoji_speech. Speeds are those of one thread in one process; only ratios within one run
are comparable. Results, with date and commit: docs/data.md.
"""

import dataclasses
import itertools
import sys
import time
from pathlib import Path

import numpy as np

from mmjax import data
from mmjax.data import augment

ROOT = Path(__file__).parents[2]
TRAIN = data.WebDataset(str(ROOT / "experiments" / "data" / "emoji_speech" / "train.tar"))
WORDS = data.WordPiece(TRAIN, fields=("json.name",), vocab_size=115)
RULES = (
    augment.ForbidChanges("image", ("flip", "rotate"), text_stream="text", phrases=augment.SIDE_WORDS),
    augment.ForbidChanges("image", ("color",), text_stream="text", phrases=augment.COLOR_WORDS),
)
SIDED, COLORED = "person running: facing right", "red apple"  # names of the images to draw
COLUMNS = 8


def emoji(rules=(), image=None, audio=None, text=None, **sizes) -> data.Dataset:
    """Image, spoken name and written name. Options: further fields of each transform."""
    return data.Dataset(
        TRAIN,
        {
            "image": data.ImageTransform("noto.png", **{"size": (32, 32)} | sizes | (image or {})),
            "audio": data.AudioTransform("ogg", sample_rate_hz=16_000, seconds=1.6, **audio or {}),
            "text": data.TextTransform("json.name", WORDS, length=24, **text or {}),
        },
        cache=True,
        rules=rules,
    )


ROWS = {
    "flip=True": {"flip": True},
    "flip=True, with ForbidChanges": {"flip": True, "rules": RULES},
    "crop_scale=(0.3, 1.0)": {"crop_scale": (0.3, 1.0)},
    "ColorJitter()": {"augmentations": (augment.ColorJitter(),)},
    "ColorJitter(), with ForbidChanges": {"augmentations": (augment.ColorJitter(),), "rules": RULES},
    "RandomErasing()": {"augmentations": (augment.RandomErasing(),)},
    "RandAugment()": {"augmentations": (augment.RandAugment(fill=255),)},
    "RandAugment(), with ForbidChanges": {"augmentations": (augment.RandAugment(fill=255),), "rules": RULES},
}


def picture(path: Path) -> None:
    """Draws a row per augmentation: the unchanged image, then one sample per seed."""
    from matplotlib.figure import Figure
    from PIL import Image

    reader = TRAIN.open()
    names = [data.lookup(reader[index], "json.name") for index in range(len(reader))]
    examples = {name: names.index(name) for name in (SIDED, COLORED)}
    figure = Figure(figsize=(1.0 * (COLUMNS + 1) + 2.1, 0.98 * len(ROWS) + 0.35), layout="constrained")
    grid = figure.subplots(len(ROWS), COLUMNS + 1)
    for row, (name, options) in enumerate(ROWS.items()):
        emoji_name = COLORED if "Color" in name else SIDED
        options = dict(options)
        dataset = emoji(options.pop("rules", ()), options | {"mean": 0.0, "std": 1.0}, size=(72, 72)).open()
        for column, axes in enumerate(grid[row]):
            rng = np.random.default_rng(column) if column else None
            axes.imshow(dataset.example(examples[emoji_name], rng)["image"].pixels.clip(0, 1))
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color="#c5ccd3", linewidth=0.6)
        grid[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8, labelpad=8)
    for column in range(COLUMNS + 1):
        grid[0, column].set_title("unchanged" if not column else f"seed {column}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    with Image.open(path) as image:  # a palette: a third of the size, with no visible difference
        image.convert("RGB").quantize(160).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB; {SIDED!r} and {COLORED!r}")


SPEEDS = {
    "nothing": emoji(),
    "crop_scale, flip, gain_db": emoji(
        image={"crop_scale": (0.5, 1.0), "flip": True}, audio={"gain_db": 6.0}
    ),
    "+ ColorJitter": emoji(image={"augmentations": (augment.ColorJitter(),)}),
    "+ RandAugment": emoji(image={"augmentations": (augment.RandAugment(),)}),
    "+ RandomErasing": emoji(image={"augmentations": (augment.RandomErasing(),)}),
    "+ Noise": emoji(audio={"augmentations": (augment.Noise(probability=1.0),)}),
    "+ Speed": emoji(audio={"augmentations": (augment.Speed(),)}),
    "+ WordDropout": emoji(text={"augmentations": (augment.WordDropout(),)}),
    "+ SpanDropout": emoji(text={"augmentations": (augment.SpanDropout(),)}),
    "+ two ForbidChanges, flip": emoji(RULES, {"flip": True}),
}  # fmt: skip


def rate(dataset: data.Dataset, seed: int, num_steps: int = 12, batch_size: int = 128) -> float:
    """Examples per second of CPU time on one thread, after all files have been decoded."""
    stream = data.batches(
        data.Mixture.of(dataset, batch_size=batch_size), seed=seed, start_step=0, num_threads=0
    )
    for _ in itertools.islice(stream, 11):  # one epoch, which fills the cache
        pass
    start = time.process_time()
    for _ in itertools.islice(stream, num_steps):
        pass
    return num_steps * batch_size / (time.process_time() - start)


def speed() -> None:
    """Prints medians of three rounds; each round measures every augmentation once."""
    rounds = [{name: rate(dataset, seed) for name, dataset in SPEEDS.items()} for seed in range(3)]
    print("| augmentation | examples/s | relative to nothing |\n|---|---|---|")
    baseline = float(np.median([rates["nothing"] for rates in rounds]))
    for name in SPEEDS:
        median = float(np.median([rates[name] for rates in rounds]))
        ratio = float(np.median([rates[name] / rates["nothing"] for rates in rounds]))
        print(f"| {name} | {median:,.0f} | {ratio:.2f} |")
    print(f"uncached: {rate(dataclasses.replace(SPEEDS['nothing'], cache=False), 0) / baseline:.2f}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["picture"]:
            picture(ROOT / "docs" / "pictures" / "augmentations.png")
        case ["speed"]:
            speed()
        case _:
            sys.exit(__doc__)
