"""Compares all fusions with the same encoders, data, steps and seeds, and parameters and FLOPs within 10 %.

    python experiments/benchmarks/fusion.py sizes grid_s1
    python experiments/benchmarks/fusion.py train grid_s1 [NAME ...] [--seeds 0 1 2] [--steps N]
    python experiments/benchmarks/fusion.py noise grid_s1 NAME ... [--seeds 0 1 2]
    python experiments/benchmarks/fusion.py table grid_s1

`train` makes one run per name and seed under runs/fusion/. It skips finished runs and resumes interrupted
ones; two commands can work in parallel if their names differ. `noise` evaluates finished runs again with
white noise on the speech. `table` prints the tables of docs/fusion.md and draws its figure. Data: `grid_s1`
and `avdigits` under $MMJAX_DATA. The hyperparameters were chosen on the val split with co-attention. Each run
is scored once, on the test split.
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
FIGURES = Path(__file__).parents[2] / "docs" / "pictures"


def train_all(task_name: str, names: list[str], seeds: list[int], num_steps: int | None) -> None:
    """Trains the runs that are not finished."""
    for seed in seeds:  # the outer loop, so that an interrupted comparison has every fusion
        for name in names:
            experiment = TASKS[task_name].experiment(name, seed, num_steps)
            folder = RUNS / task_name / name / str(seed)
            if not recorded(folder, experiment.num_steps):
                loop.run(experiment, folder, devices=jax.devices()[:1])


SNRS_DB = (10, 5, 0, -5, -10)  # signal-to-noise ratios


@dataclasses.dataclass(frozen=True)
class NoisySpeech(data.Dataset):
    """The dataset with white noise on every recording; an example always gets the same noise."""

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
        example = self.examples.example(index, rng)
        speech: Audio = example["audio"]  # type: ignore[assignment]  # fusion_models makes it an Audio
        samples = speech.samples.copy()
        samples[speech.mask] = self.noise(samples[speech.mask], np.random.default_rng(index))
        return example | {"audio": speech.replace(samples=samples)}  # type: ignore[attr-defined]  # of flax.struct


def evaluate_in_noise(task_name: str, names: list[str], seeds: list[int]) -> None:
    """Evaluates finished runs with noise on the speech, and writes noise.json into their folders."""
    for name, seed in itertools.product(names, seeds):
        folder = RUNS / task_name / name / str(seed)
        if (folder / "noise.json").is_file():
            continue
        run = open_run(folder)
        words = TASKS[task_name].experiment(name, seed).evals["words"]
        fields = {field.name: getattr(words.data, field.name) for field in dataclasses.fields(words.data)}
        results = {snr_db: run.evaluate(words, NoisySpeech(**fields, snr_db=snr_db)) for snr_db in SNRS_DB}
        (folder / "noise.json").write_text(json.dumps(results))
        print(name, seed, {snr_db: round(results[snr_db]["all_masked/audio/word"], 3) for snr_db in results})


def accuracies(task_name: str, name: str, context: str) -> np.ndarray:
    """Fraction of words predicted correctly with all words masked, "seeds slots", of the finished runs.

    context: the streams that are not missing, such as "image+audio".
    """
    slots = TASKS[task_name].slots
    rows = [recorded(folder) for folder in sorted((RUNS / task_name / name).glob("*"))]
    return np.array([[row[f"all_masked/{context}/word/{slot}"] for slot in slots] for row in rows if row])


CONTEXTS = {"nothing": "nothing", "pictures": "image", "speech": "audio", "both": "image+audio"}


def names_with(task_name: str, file: str, min_runs: int = 1) -> list[str]:
    """The fusions of which at least `min_runs` runs have the file."""
    folder = RUNS / task_name
    return [name for name in (*FUSIONS, *ALONE) if len([*(folder / name).glob(f"*/{file}")]) >= min_runs]


def tables(task_name: str) -> None:
    """Prints the tables of docs/fusion.md in Markdown."""
    task = TASKS[task_name]
    names = names_with(task_name, "evals.jsonl")
    print(f"| fusion | seeds | {' | '.join(CONTEXTS)} | parameters | MFLOPs |")
    print("|---|---|" + "---|" * (len(CONTEXTS) + 2))
    for name in names:
        cells = []
        for context in CONTEXTS.values():
            if name in ALONE and not set(context.split("+")) <= {*ALONE[name], "nothing"}:
                cells.append("")
                continue
            cells.append(cell(accuracies(task_name, name, context).mean(1)))
        parameters, flops = sizes(task, name)
        seeds = len(accuracies(task_name, name, "nothing"))
        print(f"| {name} | {seeds} | {' | '.join(cells)} | {parameters / 1e3:.0f} k | {flops / 1e6:.0f} |")
    if len(task.slots) > 1:
        for label in ("both", "speech"):
            slot_table(task_name, names, label)
    print(
        "\n| one missing at test | speech missing: loss against pictures_alone "
        "| pictures missing: loss against speech_alone |\n|---|---|---|"
    )
    for name in names:
        if name not in ALONE:
            losses = [
                accuracies(task_name, alone, context).mean() - accuracies(task_name, name, context).mean()
                for alone, context in (("pictures_alone", "image"), ("speech_alone", "audio"))
            ]
            print(f"| {name} | {losses[0]:+.3f} | {losses[1]:+.3f} |")


def slot_table(task_name: str, names: list[str], label: str) -> None:
    """Prints the accuracy of each slot given `label`; a specialist is given its own modality."""
    slots = TASKS[task_name].slots
    print(f"\n| given {label} | {' | '.join(slots)} |\n|---|{'---|' * len(slots)}")
    for name in names:
        if label != "both" and name == "pictures_alone":
            continue
        context = {"speech_alone": "audio", "pictures_alone": "image"}.get(name, CONTEXTS[label])
        cells = [cell(seeds) for seeds in accuracies(task_name, name, context).T]
        print(f"| {name} | {' | '.join(cells)} |")


def noise_table(task_name: str) -> None:
    """Prints accuracies with noisy speech, with and without lips, of runs that have a noise.json."""
    evaluated = names_with(task_name, "noise.json", min_runs=2)
    if not evaluated:
        return
    columns = [f"{snr_db} dB" for snr_db in SNRS_DB]
    print(f"\n| noise on the speech | given | clean | {' | '.join(columns)} |")
    print("|---|---|" + "---|" * (1 + len(columns)))
    for name in evaluated:
        files = sorted((RUNS / task_name / name).glob("*/noise.json"))
        runs = [json.loads(file.read_text()) for file in files]
        for label, context in (("speech", "audio"), ("both", "image+audio")):
            if f"all_masked/{context}/word" in runs[0][str(SNRS_DB[0])]:
                key = f"all_masked/{context}/word"
                values = [[recorded(file.parent)[key] for file in files]]
                values += [[run[str(snr_db)][key] for run in runs] for snr_db in SNRS_DB]
                cells = [cell(np.array(column)) for column in values]
                print(f"| {name} | {label} | {' | '.join(cells)} |")
        for alone, context in (("speech_alone", "audio"), ("pictures_alone", "image")):
            if name not in ALONE and alone in {*evaluated, "pictures_alone"}:
                gains = [
                    [noisy_accuracy(task_name, name, seed, "image+audio", snr_db)
                     - noisy_accuracy(task_name, alone, seed, context, snr_db) for seed in range(len(files))]
                    for snr_db in (None, *SNRS_DB)
                ]  # fmt: skip
                cells = [cell(np.array(column), "+") for column in gains]
                print(f"| {name} | both, more than {alone} | {' | '.join(cells)} |")


def noisy_accuracy(task_name: str, name: str, seed: int, context: str, snr_db: int | None) -> float:
    """Fraction of words that one run predicts correctly. No noise if snr_db is None or speech is missing."""
    folder = RUNS / task_name / name / str(seed)
    if snr_db is None or context == "image":
        return recorded(folder)[f"all_masked/{context}/word"]
    return json.loads((folder / "noise.json").read_text())[str(snr_db)][f"all_masked/{context}/word"]


def figure(task_name: str) -> Path:
    """Draws accuracies by context (a dot per seed, a stroke for their mean) and training losses."""
    from matplotlib.figure import Figure

    names = names_with(task_name, "evals.jsonl")
    image = Figure(figsize=(11, 0.34 * len(names) + 1.6), layout="constrained")
    dots, curves = image.subplots(1, 2)
    for (label, context), colour in zip(CONTEXTS.items(), pictures.COLOURS, strict=False):
        for row, name in enumerate(names):
            if name in ALONE and not set(context.split("+")) <= {*ALONE[name], "nothing"}:
                continue
            seeds = accuracies(task_name, name, context).mean(1)
            legend_label = label if row == 0 else None
            dots.plot(
                seeds,
                [row] * len(seeds),
                "o",
                color=colour,
                markersize=5,
                alpha=0.45,
                mew=0,
                label=legend_label,
            )
            dots.plot(seeds.mean(), row, "|", color=colour, markersize=13, markeredgewidth=2)
    dots.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    dots.invert_yaxis()
    dots.set_xlim(0, 1.02)
    dots.set_xlabel("fraction of words predicted correctly, all masked; dots: seeds, strokes: means")
    dots.set_title(f"{task_name}: accuracy given ...", loc="left", fontsize=10)
    dots.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, frameon=False)
    for name, style in zip(names, STYLES, strict=False):
        steps, loss = curve(task_name, name)
        curves.plot(steps, loss, label=name.replace("_", " "), linewidth=1.2, **style)
    curves.set_xlabel("step")
    curves.set_title("training loss given both, mean over seeds", loc="left", fontsize=10)
    curves.legend(fontsize=7, frameon=False, ncols=2)
    for axes in (dots, curves):
        axes.spines[["top", "right"]].set_visible(False)
    path = FIGURES / f"fusion_{task_name}.png"
    image.savefig(path, dpi=110)
    return path


STYLES = [{"color": colour, "linestyle": line} for line in ("-", "--") for colour in pictures.COLOURS]


def curve(task_name: str, name: str) -> tuple[list[int], np.ndarray]:
    """Logged steps, and the mean training loss over seeds at each."""
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
    parser.add_argument("names", nargs="*", help=f"any of {', '.join((*FUSIONS, *ALONE))}; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=None)
    arguments = parser.parse_args()
    names = arguments.names or [*FUSIONS, *ALONE]
    unknown = sorted(set(names) - {*FUSIONS, *ALONE})
    if unknown:
        parser.error(f"unknown fusions {unknown}; known: {[*FUSIONS, *ALONE]}")
    if arguments.verb == "train":
        # All seeds compile the same program; the cache compiles it once.
        jax.config.update("jax_compilation_cache_dir", str(RUNS / "compiled"))
        train_all(arguments.task, names, arguments.seeds, arguments.steps)
    elif arguments.verb == "noise":
        evaluate_in_noise(arguments.task, names, arguments.seeds)
    elif arguments.verb == "table":
        tables(arguments.task)
        noise_table(arguments.task)
        print(f"\n{figure(arguments.task)}")
    else:
        for name in names:
            parameters, flops = sizes(TASKS[arguments.task], name)
            print(f"{name:18} {parameters / 1e3:6.0f} k parameters {flops / 1e6:6.1f} MFLOPs per example")


if __name__ == "__main__":
    main()
