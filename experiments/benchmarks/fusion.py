"""Every fusion on equal terms: the same towers, data, steps and seeds; parameters and arithmetic within 10 %.

    python experiments/benchmarks/fusion.py sizes
    python experiments/benchmarks/fusion.py train grid_s1 [NAME ...] [--seeds 0 1 2] [--steps N]
    python experiments/benchmarks/fusion.py table grid_s1

`train` makes a run for each name and seed under runs/fusion/, skips what is finished, and goes on where it
was stopped; two at once share the work if each is given its own names. `table` prints the tables of
docs/fusion.md and draws its figure. Data: `grid_s1` and `avdigits` under $MMJAX_DATA. The recipe was chosen
on the val split, with co-attention; each run is scored once on the test split.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import scipy.stats

from mmjax import data, encoders, evals, fusion, heads, loop, objectives, train, views
from mmjax.evals import pictures
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.train.flops import train_flops

DATA = Path(os.environ.get("MMJAX_DATA", Path(__file__).parents[3] / "shared" / "data"))
HINT = "Set MMJAX_DATA to the folder that holds grid_s1/ and avdigits/ (see docs/data.md)"
RUNS = Path("runs") / "fusion"
PICTURE = Path(__file__).parents[2] / "docs" / "pictures"
WIDTH, NUM_HEADS = 64, 4
STREAMS = ("text", "image", "audio")
SLOTS = ("command", "color", "preposition", "letter", "digit", "adverb")


def trunk(depth: int, mlp_width: int = 4 * WIDTH, dropout: float = 0.1, taps: tuple[int, ...] = ()):
    return Transformer(
        depth=depth, width=WIDTH, num_heads=NUM_HEADS, mlp_width=mlp_width, dropout=dropout, taps=taps,
        scan=False,
    )  # fmt: skip


# What a fusion of one vector a modality, and one of attention, have in common; widths match their sizes.
VECTORS = dict(width=WIDTH, reader="text", dropout=0.1)
ATTENTION = dict(width=WIDTH, num_heads=NUM_HEADS, dropout=0.1)
READER = ATTENTION | dict(reader="text")

FUSIONS: dict[str, Callable[[tuple[str, ...], int], nn.Module]] = {
    "mean": lambda s, v: fusion.Mean(s, mlp_width=128, trunk=trunk(1), **VECTORS),
    "concat": lambda s, v: fusion.ConcatMlp(s, mlp_width=96, hidden_width=64, trunk=trunk(1), **VECTORS),
    "gated": lambda s, v: fusion.GatedSum(s, mlp_width=128, trunk=trunk(1), **VECTORS),
    "crossing": lambda s, v: fusion.ChannelCross(s, mlp_width=88, rank=16, trunk=trunk(1), **VECTORS),
    "single_stream": lambda s, v: fusion.SingleStream(s, trunk=trunk(1, mlp_width=128)),
    "co_attention": lambda s, v: fusion.CoAttention(
        s, depth=2, updated=("text",), mlp_width=128, **ATTENTION
    ),
    "bottleneck": lambda s, v: fusion.Bottleneck(s, depth=2, mlp_width=32, **READER),
    "resampler": lambda s, v: fusion.Resampler(s, depth=1, num_latents=12, mlp_width=128, **READER),
    "q_former": lambda s, v: fusion.QFormer(s, depth=2, mlp_width=128, **READER),
    "prefix": lambda s, v: fusion.Prefix(s, reader="text", trunk=trunk(1, mlp_width=128)),
    "hierarchical": lambda s, v: fusion.Hierarchical(s, depth=2, mlp_width=128, **READER),
    "votes_mean": lambda s, v: fusion.Decision(s, num_classes=v, mlp_width=56, vote="mean", **READER),
    "votes_confidence": lambda s, v: fusion.Decision(
        s, num_classes=v, mlp_width=56, vote="confidence", **READER
    ),
    "votes_product": lambda s, v: fusion.Decision(s, num_classes=v, mlp_width=56, vote="product", **READER),
}
# The same co-attention trained on one of them alone.
ALONE = {"speech_alone": ("text", "audio"), "pictures_alone": ("text", "image")}


@dataclasses.dataclass(frozen=True)
class Task:
    """What a set gives: towers, and how words are to be read from them."""

    folder: str
    num_steps: int
    vocab: int
    length: int  # tokens of a text
    slots: tuple[str, ...]
    streams: Callable[[bool], dict]  # augment -> transforms
    towers: Callable[[], dict[str, nn.Module]]

    def words(self) -> data.WordPiece:
        source = data.WebDataset(str(DATA / self.folder / "train.tar"), hint=HINT)
        return data.WordPiece(source, fields=("json.text",), vocab_size=self.vocab)

    def dataset(self, split: str, *, augment: bool) -> data.Dataset:
        text = data.TextTransform("json.text", tokenizer=self.words(), length=self.length)
        return data.Dataset(
            source=data.WebDataset(str(DATA / self.folder / f"{split}.tar"), hint=HINT),
            streams=self.streams(augment) | {"text": text},
            cache=True,
        )

    def experiment(
        self, name: str, seed: int, num_steps: int | None = None, split: str = "test"
    ) -> Experiment:
        """One run. name: of FUSIONS or ALONE."""
        streams = ALONE.get(name, STREAMS)
        make = FUSIONS["co_attention" if name in ALONE else name]
        towers = {
            stream: deeper(tower) if name == "hierarchical" else tower
            for stream, tower in (self.towers() | {"text": self.text()}).items()
            if stream in streams
        }
        head = heads.Votes("votes") if name.startswith("votes") else heads.TokenLogits("text")
        hidden = views.MaskTokens("text", vocab=self.vocab, unit="all", mask_share=1.0, random_share=0.0)
        context = tuple(stream for stream in ("image", "audio") if stream in streams)
        # Towers run once a step; what is cheap, fusion, runs for both, and for each of them alone.
        looks = {"both": hidden}
        if len(context) > 1:
            looks |= {
                "speech": views.Chain((hidden, views.Drop((("image", 1.0),)))),
                "pictures": views.Chain((hidden, views.Drop((("audio", 1.0),)))),
            }
        return Experiment(
            name=name,
            seed=seed,
            num_steps=num_steps or self.num_steps,
            data=data.Mixture.of(self.dataset("train", augment=True), batch_size=32),
            model=MultimodalModel(encoders=towers, fusion=make(streams, self.vocab), heads={"words": head}),
            objectives={name: objectives.MaskedLanguage("words", view=view) for name, view in looks.items()},
            optimizer=train.AdamW(
                peak_learning_rate=2e-3, schedule=train.Schedule(warmup_steps=100), weight_decay=0.05
            ),
            evals={
                "words": evals.MaskedWords(
                    data=self.dataset(split, augment=False),
                    context=context,
                    slots=self.slots,
                    all_masked=True,
                    train=self.dataset("train", augment=False),
                )
            },
            save_every=1000,
            max_to_keep=1,
        )

    def text(self) -> nn.Module:
        return encoders.TextTransformer(vocab=self.vocab, max_length=self.length, trunk=trunk(2))


def deeper(tower: nn.Module) -> nn.Module:
    """The tower, which shows the layer half-way too."""
    return tower.clone(trunk=tower.trunk.clone(taps=(tower.trunk.depth // 2,)))


def sentences(augment: bool) -> dict:
    """grid_s1: 24 mouth frames as one sheet of 4 x 6 tiles, and three seconds of speech.

    Frames that are cropped alike, and speech with some noise, keep lips from being learned by heart and
    speech from being all that is ever needed.
    """
    noise = (data.augment.Noise(snr_db=(5.0, 30.0), probability=0.5),) if augment else ()
    return {
        "image": data.ImageTransform(
            "jpg", size=(96, 192), channels=1, subtract_mean_tile=(4, 6), std=0.1,
            shift=1 if augment else 0, crop_scale=(0.85, 1.0) if augment else None,
        ),
        "audio": data.AudioTransform(
            "ogg", sample_rate_hz=16_000, seconds=3.0, shift_seconds=0.08 if augment else 0.0,
            augmentations=noise,
        ),
    }  # fmt: skip


def sentence_towers() -> dict[str, nn.Module]:
    return {
        "image": encoders.ViT(
            stem=encoders.ConvPatches(patch=(24, 32), size=4, stride=4), trunk=trunk(2, dropout=0.3)
        ),
        "audio": encoders.SpectrogramTransformer(
            mel=encoders.LogMel(sample_rate_hz=16_000, num_mels=40),
            stem=encoders.ConvFrames(depth=3, size=5, stride=2),
            augment=encoders.SpecAugment(num_time_masks=1, max_time_frames=8),
            trunk=trunk(2),
        ),
    }


def digits(augment: bool) -> dict:
    """avdigits: a handwritten digit and a spoken one."""
    return {
        "image": data.ImageTransform("png", size=(28, 28), channels=1, shift=2 if augment else 0),
        "audio": data.AudioTransform(
            "flac", sample_rate_hz=8000, seconds=1.0, shift_seconds=0.1 if augment else 0.0
        ),
    }


def digit_towers() -> dict[str, nn.Module]:
    return {
        "image": encoders.ViT(stem=encoders.LinearPatches(patch=(7, 7)), trunk=trunk(6)),
        "audio": encoders.SpectrogramTransformer(
            mel=encoders.LogMel(sample_rate_hz=8000, num_mels=40),
            stem=encoders.FramePatches(frames=4),
            augment=encoders.SpecAugment(num_time_masks=1, num_mel_masks=1, max_mels=6),
            trunk=trunk(6),
        ),
    }


TASKS = {
    "grid_s1": Task(
        folder="grid_s1", num_steps=1600, vocab=115, length=8, slots=SLOTS, streams=sentences,
        towers=sentence_towers,
    ),
    "avdigits": Task(
        folder="avdigits", num_steps=400, vocab=60, length=3, slots=("digit",), streams=digits,
        towers=digit_towers,
    ),
}  # fmt: skip


def sizes(task: Task, name: str) -> tuple[int, float]:
    """Parameters, and training FLOPs an example; computes nothing."""
    made = task.experiment(name, seed=0)
    learner = Learner(model=made.model, objectives=made.objectives)
    spec = made.data.spec()

    def init():
        keys = {"params": jax.random.key(0), "views": jax.random.key(0), "dropout": jax.random.key(0)}
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), spec)
        return nn.meta.unbox(learner.init(keys, zeros)["params"])

    params = jax.eval_shape(init)
    num_parameters = sum(x.size for x in jax.tree.leaves(params))
    return num_parameters, train_flops(learner, params, spec) / made.data.batch_size


def train_all(task_name: str, names: list[str], seeds: list[int], num_steps: int | None) -> None:
    """Trains what is not finished."""
    for seed in seeds:  # outermost: what is there after an hour has every fusion
        for name in names:
            made = TASKS[task_name].experiment(name, seed, num_steps)
            folder = RUNS / task_name / name / str(seed)
            if not recorded(folder, made.num_steps):
                loop.run(made, folder, devices=jax.devices()[:1])


def recorded(folder: Path, num_steps: int | None = None) -> dict[str, float]:
    """The metrics of a finished run; {} if it is not."""
    file = folder / "evals.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    last = rows[-1] if rows else {}
    return last if last and num_steps in (None, last["step"]) else {}


def given(task_name: str, name: str, which: str) -> np.ndarray:
    """Share of words read right, all words hidden, ``"seeds slots"``; NaN where a run is not finished.

    which: the context, such as "image+audio".
    """
    slots = TASKS[task_name].slots
    rows = [recorded(folder) for folder in sorted((RUNS / task_name / name).glob("*"))]
    return np.array([[row[f"all_masked/{which}/word/{slot}"] for slot in slots] for row in rows if row])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean over seeds and half the 95 % interval of it (Student's t); NaN for one seed."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(half)


CONTEXTS = {"nothing": "nothing", "pictures": "image", "speech": "audio", "both": "image+audio"}


def tables(task_name: str) -> None:
    """The tables of docs/fusion.md, Markdown."""
    task = TASKS[task_name]
    names = [
        name for name in (*FUSIONS, *ALONE) if len(list((RUNS / task_name / name).glob("*/evals.jsonl")))
    ]
    print(f"| fusion | seeds | {' | '.join(CONTEXTS)} | parameters | MFLOPs |")
    print("|---|---|" + "---|" * (len(CONTEXTS) + 2))
    for name in names:
        cells = []
        for which in CONTEXTS.values():
            if name in ALONE and not set(which.split("+")) <= {*ALONE[name], "nothing"}:
                cells.append("")
                continue
            cells.append("{:.3f} ± {:.3f}".format(*interval(given(task_name, name, which).mean(1))))
        parameters, flops = sizes(task, name)
        seeds = len(given(task_name, name, "nothing"))
        print(f"| {name} | {seeds} | {' | '.join(cells)} | {parameters / 1e3:.0f} k | {flops / 1e6:.0f} |")
    if len(task.slots) > 1:
        print(f"\n| given both | {' | '.join(task.slots)} |\n|---|{'---|' * len(task.slots)}")
        for name in names:
            which = {"speech_alone": "audio", "pictures_alone": "image"}.get(name, "image+audio")
            print(
                f"| {name} | " + " | ".join(f"{x:.3f}" for x in given(task_name, name, which).mean(0)) + " |"
            )
    print("\n| one missing at test | speech missing: loss against pictures_alone | pictures missing: loss "
          "against speech_alone |\n|---|---|---|")  # fmt: skip
    for name in names:
        if name not in ALONE:
            losses = [
                given(task_name, alone, which).mean() - given(task_name, name, which).mean()
                for alone, which in (("pictures_alone", "image"), ("speech_alone", "audio"))
            ]
            print(f"| {name} | {losses[0]:+.3f} | {losses[1]:+.3f} |")


def figure(task_name: str) -> Path:
    """Dots with intervals for each context, and beside them the loss while training."""
    from matplotlib.figure import Figure

    names = [
        name for name in (*FUSIONS, *ALONE) if len(list((RUNS / task_name / name).glob("*/evals.jsonl")))
    ]
    drawn = Figure(figsize=(11, 0.34 * len(names) + 1.6), layout="constrained")
    dots, curves = drawn.subplots(1, 2)
    for (label, which), colour in zip(CONTEXTS.items(), pictures.COLOURS, strict=False):
        for row, name in enumerate(names):
            if name in ALONE and not set(which.split("+")) <= {*ALONE[name], "nothing"}:
                continue
            mean, half = interval(given(task_name, name, which).mean(1))
            shown = label if row == 0 else None
            dots.errorbar(mean, row, xerr=half, fmt="o", color=colour, markersize=4, label=shown)
    dots.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    dots.invert_yaxis()
    dots.set_xlabel("words read right, all hidden (mean of the slots; bars: 95 % over seeds)")
    dots.set_title(f"{task_name}: what is read, given ...", loc="left", fontsize=10)
    dots.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, frameon=False)
    for name, style in zip(names, STYLES, strict=False):
        steps, loss = curve(task_name, name)
        curves.plot(steps, loss, label=name.replace("_", " "), linewidth=1.2, **style)
    curves.set_xlabel("step")
    curves.set_title("training loss given both, mean over seeds", loc="left", fontsize=10)
    curves.legend(fontsize=7, frameon=False, ncols=2)
    for axes in (dots, curves):
        axes.spines[["top", "right"]].set_visible(False)
    path = PICTURE / f"fusion_{task_name}.png"
    drawn.savefig(path, dpi=110)
    return path


STYLES = [{"color": colour, "linestyle": line} for line in ("-", "--") for colour in pictures.COLOURS]


def curve(task_name: str, name: str) -> tuple[list[int], np.ndarray]:
    """Steps, and the mean over seeds of what was logged there."""
    seeds = []
    for file in sorted((RUNS / task_name / name).glob("*/metrics.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        seeds.append({row["step"]: row["loss/both"] for row in rows if "loss/both" in row})
    steps = sorted(set.intersection(*map(set, seeds)))
    return steps, np.mean([[seed[step] for step in steps] for seed in seeds], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("sizes", "train", "table"))
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("names", nargs="*", help=f"of {', '.join((*FUSIONS, *ALONE))}; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=None)
    given_arguments = parser.parse_args()
    names = given_arguments.names or [*FUSIONS, *ALONE]
    unknown = sorted(set(names) - {*FUSIONS, *ALONE})
    if unknown:
        parser.error(f"unknown fusions {unknown}; known: {[*FUSIONS, *ALONE]}")
    if given_arguments.verb == "train":
        # Seeds are one program: it is compiled once.
        jax.config.update("jax_compilation_cache_dir", str(RUNS / "compiled"))
        train_all(given_arguments.task, names, given_arguments.seeds, given_arguments.steps)
    elif given_arguments.verb == "table":
        tables(given_arguments.task)
        print(f"\n{figure(given_arguments.task)}")
    else:
        for name in names:
            parameters, flops = sizes(TASKS[given_arguments.task], name)
            print(f"{name:18} {parameters / 1e3:6.0f} k parameters {flops / 1e6:6.1f} MFLOPs an example")


if __name__ == "__main__":
    main()
