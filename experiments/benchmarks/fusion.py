"""Every fusion on equal terms: the same towers, data, steps and seeds; parameters and arithmetic within 10 %.

    python experiments/benchmarks/fusion.py sizes
    python experiments/benchmarks/fusion.py train grid_s1 [NAME ...] [--seeds 0 1 2] [--steps N]
    python experiments/benchmarks/fusion.py noise grid_s1 NAME ... [--seeds 0 1 2]
    python experiments/benchmarks/fusion.py table grid_s1

`train` makes a run for each name and seed under runs/fusion/, skips what is finished, and goes on where it
was stopped; two at once share the work if each is given its own names. `noise` asks finished runs for the
words again, under white noise on the speech. `table` prints the tables of
docs/fusion.md and draws its figure. Data: `grid_s1` and `avdigits` under $MMJAX_DATA. The recipe was chosen
on the val split, with co-attention; each run is scored once on the test split.
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path

import jax
import numpy as np
from fusion_models import ALONE, FUSIONS, TASKS, sizes
from seeds import cell, recorded

from mmjax import data
from mmjax.batch import Audio
from mmjax.evals import pictures
from mmjax.run import loop
from mmjax.run.handle import open_run

RUNS = Path("runs") / "fusion"
PICTURE = Path(__file__).parents[2] / "docs" / "pictures"


def train_all(task_name: str, names: list[str], seeds: list[int], num_steps: int | None) -> None:
    """Trains what is not finished."""
    for seed in seeds:  # outermost: what is there after an hour has every fusion
        for name in names:
            made = TASKS[task_name].experiment(name, seed, num_steps)
            folder = RUNS / task_name / name / str(seed)
            if not recorded(folder, made.num_steps):
                loop.run(made, folder, devices=jax.devices()[:1])


NOISE_DB = (10, 5, 0, -5, -10)  # of the speech's power to the noise's


@dataclasses.dataclass(frozen=True)
class NoisySpeech(data.Dataset):
    """The dataset with white noise on every recording, the same whenever an example is read."""

    snr_db: float = 0.0

    def open(self):
        return _NoisyExamples(super().open(), data.augment.Noise((self.snr_db, self.snr_db), probability=1.0))


@dataclasses.dataclass(frozen=True)
class _NoisyExamples:
    examples: data.Examples
    noise: data.augment.Noise

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict:
        found = self.examples.example(index, rng)
        speech: Audio = found["audio"]  # type: ignore[assignment]  # the stream is this file's own
        samples = speech.samples.copy()
        samples[speech.mask] = self.noise(samples[speech.mask], np.random.default_rng(index))
        return found | {"audio": speech.replace(samples=samples)}  # type: ignore[attr-defined]  # flax's


def listen_in_noise(task_name: str, names: list[str], seeds: list[int]) -> None:
    """Asks finished runs for all six words under noise, and writes noise.json into their folders."""
    for name, seed in itertools.product(names, seeds):
        folder = RUNS / task_name / name / str(seed)
        if (folder / "noise.json").is_file():
            continue
        run = open_run(folder)
        words = TASKS[task_name].experiment(name, seed).evals["words"]
        fields = {field.name: getattr(words.data, field.name) for field in dataclasses.fields(words.data)}
        found = {snr_db: run.evaluate(words, NoisySpeech(**fields, snr_db=snr_db)) for snr_db in NOISE_DB}
        (folder / "noise.json").write_text(json.dumps(found))
        print(name, seed, {snr_db: round(found[snr_db]["all_masked/audio/word"], 3) for snr_db in found})


def given(task_name: str, name: str, which: str) -> np.ndarray:
    """Share of words read right, all words hidden, ``"seeds slots"``; NaN where a run is not finished.

    which: the context, such as "image+audio".
    """
    slots = TASKS[task_name].slots
    rows = [recorded(folder) for folder in sorted((RUNS / task_name / name).glob("*"))]
    return np.array([[row[f"all_masked/{which}/word/{slot}"] for slot in slots] for row in rows if row])


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
            cells.append(cell(given(task_name, name, which).mean(1)))
        parameters, flops = sizes(task, name)
        seeds = len(given(task_name, name, "nothing"))
        print(f"| {name} | {seeds} | {' | '.join(cells)} | {parameters / 1e3:.0f} k | {flops / 1e6:.0f} |")
    if len(task.slots) > 1:
        for label in ("both", "speech"):
            slot_table(task_name, names, label)
    print("\n| one missing at test | speech missing: loss against pictures_alone | pictures missing: loss "
          "against speech_alone |\n|---|---|---|")  # fmt: skip
    for name in names:
        if name not in ALONE:
            losses = [
                given(task_name, alone, which).mean() - given(task_name, name, which).mean()
                for alone, which in (("pictures_alone", "image"), ("speech_alone", "audio"))
            ]
            print(f"| {name} | {losses[0]:+.3f} | {losses[1]:+.3f} |")


def slot_table(task_name: str, names: list[str], label: str) -> None:
    """Each slot given `label`; a specialist is given what it has."""
    slots = TASKS[task_name].slots
    print(f"\n| given {label} | {' | '.join(slots)} |\n|---|{'---|' * len(slots)}")
    for name in names:
        if label != "both" and name == "pictures_alone":
            continue
        which = {"speech_alone": "audio", "pictures_alone": "image"}.get(name, CONTEXTS[label])
        cells = [cell(seeds) for seeds in given(task_name, name, which).T]
        print(f"| {name} | {' | '.join(cells)} |")


def noise_table(task_name: str) -> None:
    """What is read from noisy speech, with and without the lips; of the runs that were asked."""
    asked = [
        name for name in (*FUSIONS, *ALONE) if len(list((RUNS / task_name / name).glob("*/noise.json"))) > 1
    ]
    if not asked:
        return
    shown = [f"{snr_db} dB" for snr_db in NOISE_DB]
    print(f"\n| noise on the speech | given | clean | {' | '.join(shown)} |")
    print("|---|---|" + "---|" * (1 + len(shown)))
    for name in asked:
        files = sorted((RUNS / task_name / name).glob("*/noise.json"))
        runs = [json.loads(file.read_text()) for file in files]
        for label, which in (("speech", "audio"), ("both", "image+audio")):
            if f"all_masked/{which}/word" in runs[0][str(NOISE_DB[0])]:
                key = f"all_masked/{which}/word"
                columns = [[recorded(file.parent)[key] for file in files]]
                columns += [[run[str(snr_db)][key] for run in runs] for snr_db in NOISE_DB]
                cells = [cell(np.array(column)) for column in columns]
                print(f"| {name} | {label} | {' | '.join(cells)} |")
        for alone, which in (("speech_alone", "audio"), ("pictures_alone", "image")):
            if name not in ALONE and alone in {*asked, "pictures_alone"}:
                gains = [
                    [under_noise(task_name, name, seed, "image+audio", snr_db)
                     - under_noise(task_name, alone, seed, which, snr_db) for seed in range(len(files))]
                    for snr_db in (None, *NOISE_DB)
                ]  # fmt: skip
                cells = [cell(np.array(column), "+") for column in gains]
                print(f"| {name} | both, more than {alone} | {' | '.join(cells)} |")


def under_noise(task_name: str, name: str, seed: int, which: str, snr_db: int | None) -> float:
    """Words read right by one run; None and pictures: without noise."""
    folder = RUNS / task_name / name / str(seed)
    if snr_db is None or which == "image":
        return recorded(folder)[f"all_masked/{which}/word"]
    return json.loads((folder / "noise.json").read_text())[str(snr_db)][f"all_masked/{which}/word"]


def figure(task_name: str) -> Path:
    """A dot for each seed and a stroke for their mean, by context; beside them the loss while training."""
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
            seeds = given(task_name, name, which).mean(1)
            shown = label if row == 0 else None
            dots.plot(
                seeds, [row] * len(seeds), "o", color=colour, markersize=5, alpha=0.45, mew=0, label=shown
            )
            dots.plot(seeds.mean(), row, "|", color=colour, markersize=13, markeredgewidth=2)
    dots.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    dots.invert_yaxis()
    dots.set_xlim(0, 1.02)
    dots.set_xlabel("words read right, all hidden; a dot a seed, a stroke their mean")
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
    parser.add_argument("verb", choices=("sizes", "train", "noise", "table"))
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
    elif given_arguments.verb == "noise":
        listen_in_noise(given_arguments.task, names, given_arguments.seeds)
    elif given_arguments.verb == "table":
        tables(given_arguments.task)
        noise_table(given_arguments.task)
        print(f"\n{figure(given_arguments.task)}")
    else:
        for name in names:
            parameters, flops = sizes(TASKS[given_arguments.task], name)
            print(f"{name:18} {parameters / 1e3:6.0f} k parameters {flops / 1e6:6.1f} MFLOPs an example")


if __name__ == "__main__":
    main()
