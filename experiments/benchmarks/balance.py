"""Every balance on the same five objectives, data, steps and seeds: what each reaches, and the cost.

    MMJAX_DATA=../shared/data python experiments/benchmarks/balance.py runs/balance

Data: `avdigits` (docs/data.md). A small model aligns speech, handwriting and word pairwise, and reads the
hidden word from speech alone and from handwriting alone. Runs that are recorded in the folder are not run
again, so an interrupted command goes on. Scores are of the 300 examples of val. Cost is the process's own CPU
time in steps, compilation left out, which other work on the machine changes little. Results, with date and
commit: docs/balance.md.
"""

import argparse
import dataclasses
import functools
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from seeds import cell

from mmjax import balance, data, encoders, fusion, heads, objectives, training, views
from mmjax.balance import conflict
from mmjax.evals.conflict_map import conflict_map
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel
from mmjax.run import loop

DATA = data.local("avdigits")
WIDTH, VOCAB, BATCH, REPORT_EVERY = 32, 60, 64, 10
SHARED = ("model/encoders_audio", "model/encoders_image", "model/encoders_text", "model/fusion")


def balances(num_steps: int) -> dict[str, balance.Balance]:
    """All of them, at their defaults where they have some."""
    late = ((0, 0.0), (num_steps // 4, 0.0), (num_steps // 2, 1.0))
    kinds = {
        "Fixed": functools.partial(balance.Fixed),
        # Alignment first, hidden words later.
        "Scheduled": functools.partial(balance.Scheduled, schedules={"heard_word": late, "seen_word": late}),
        "Uncertainty": balance.Uncertainty,
        "DynamicWeightAverage": functools.partial(balance.DynamicWeightAverage, window=num_steps // 12),
        "GradNorm": balance.GradNorm,
        "MeanGradients": balance.MeanGradients,
        "PCGrad": balance.PCGrad,
        "MGDA": balance.MGDA,
        "CAGrad": balance.CAGrad,
        "NashMTL": balance.NashMTL,
        "Interpolate": functools.partial(balance.Interpolate, surgery=balance.NashMTL()),
    }
    return {name: make(shared_params=SHARED) for name, make in kinds.items()}


def digits(split: str, *, augment: bool) -> data.Dataset:
    """A recording, a picture and the word."""
    words = data.WordPiece(
        data.WebDataset(DATA.path("train.tar"), hint=DATA.hint), fields=("json.text",), vocab_size=VOCAB
    )
    return data.Dataset(
        source=data.WebDataset(DATA.path(f"{split}.tar"), hint=DATA.hint),
        streams={
            "audio": data.AudioTransform(
                "flac", sample_rate_hz=8000, seconds=1.0, shift_seconds=0.1 if augment else 0.0
            ),
            "image": data.ImageTransform("png", size=(28, 28), channels=1, shift=2 if augment else 0),
            "text": data.TextTransform("json.text", tokenizer=words, length=3),
        },
        cache=True,
    )


def trunk() -> Transformer:
    return Transformer(depth=1, width=WIDTH, num_heads=2, mlp_width=2 * WIDTH, scan=False)


def word_given(stream: str) -> views.Chain:
    """The word hidden, and of the others only `stream` there."""
    other = {"audio": "image", "image": "audio"}[stream]
    mask = views.MaskTokens(
        "text", vocab=VOCAB, unit="all", mask_token_probability=1.0, random_token_probability=0.0
    )
    return views.Chain((mask, views.DropStreams(((other, 1.0),))))


def experiment(chosen: balance.Balance, num_steps: int, seed: int) -> Experiment:
    three = ("text", "image", "audio")
    return Experiment(
        name="balance",
        num_steps=num_steps,
        seed=seed,
        balance=chosen,
        data=data.Mixture.of(digits("train", augment=True), batch_size=BATCH),
        model=MultimodalModel(
            encoders={
                "audio": encoders.SpectrogramTransformer(
                    mel=encoders.LogMel(sample_rate_hz=8000, num_mels=40),
                    stem=encoders.FramePatches(frames=4),
                    trunk=trunk(),
                ),
                "image": encoders.ViT(stem=encoders.LinearPatches(patch=(7, 7)), trunk=trunk()),
                "text": encoders.TextTransformer(vocab=VOCAB, max_length=3, trunk=trunk()),
            },
            fusion=fusion.CoAttention(
                streams=three,
                updated_streams=("text",),
                depth=1,
                width=WIDTH,
                num_heads=2,
                mlp_width=2 * WIDTH,
            ),
            heads={stream: heads.PooledEmbedding(stream, dim=WIDTH) for stream in three}
            | {"words": heads.TokenLogits("text")},
        ),
        objectives={
            "audio_text": objectives.InfoNCE("audio", "text", match_by="text"),
            "image_text": objectives.InfoNCE("image", "text", match_by="text"),
            "audio_image": objectives.InfoNCE("audio", "image", match_by="text"),
            "heard_word": objectives.MaskedLanguage("words", view=word_given("audio")),
            "seen_word": objectives.MaskedLanguage("words", view=word_given("image")),
        },
        optimizer=training.AdamW(
            peak_learning_rate=2e-3,
            schedule=training.Schedule(warmup_steps=num_steps // 10),
            weight_decay=0.05,
        ),
    )


class Bench:
    """What the runs of one process share: compiled steps, report, measure on val, a seed's batches."""

    def __init__(self, folder: Path, num_steps: int):
        self.folder, self.num_steps = folder, num_steps
        self.step, self.setup = functools.cache(self._step), functools.cache(self._setup)
        self.measure = jax.jit(self._measure)
        self.val = [batch for batch in data.epoch(digits("val", augment=False), 100)]
        self.batches: tuple[int, list] = (-1, [])

    def _setup(self, name: str) -> loop.Session:
        return loop.Session.of(
            experiment(balances(self.num_steps)[name], self.num_steps, 0), jax.devices()[:1]
        )

    def _step(self, name: str):
        s = self.setup(name)
        return training.jit_step(s.learner, s.optimizer, s.abstract, s.mesh, s.experiment.rules)

    @functools.cached_property
    def report(self):
        s = self.setup("Fixed")
        return training.jit_conflicts(s.learner, s.abstract, s.mesh, s.experiment.rules)

    def _measure(self, params, batch):
        """Losses and accuracies of one batch of val; the word is hidden whole, so nothing is drawn."""
        learner, rngs = self.setup("Fixed").learner, {"views": jax.random.key(0)}
        return learner.apply({"params": params}, batch, train=False, rngs=rngs, method="weighted_losses")[1]

    def of_seed(self, seed: int) -> list:
        """All batches of a run, in memory: every balance gets the same, and none waits."""
        if self.batches[0] != seed:
            mixture = experiment(balance.Fixed(), self.num_steps, seed).data
            made = data.batches(mixture, seed=seed, start_step=0, num_steps=self.num_steps)
            self.batches = (seed, [batch for batch, _ in made])
        return self.batches[1]

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def first_state(self, seed: int):
        """On the host: the step eats its state."""
        s = self.setup("Fixed")
        return jax.device_get(
            dataclasses.replace(s, experiment=experiment(balance.Fixed(), self.num_steps, seed)).new_state()
        )

    def run(self, name: str, seed: int) -> dict:
        """One training run: scores on val, CPU seconds a step, conflicts."""
        learner, step = self.setup(name).learner, self.step(name)
        start = self.first_state(seed).replace(balance=learner.balance.init(len(learner.objectives)))
        # A copy of each leaf: the step eats its buffers, and two leaves may be one array.
        state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), start)
        rows, seconds, timed = [], 0.0, 0
        for number, batch in enumerate(self.of_seed(seed), 1):
            if number % REPORT_EVERY == 0 or number == 1:
                bare = state.replace(balance=())
                rows.append(
                    {"step": number} | conflict.mean_report([jax.device_get(self.report(bare, batch))])
                )
            began = time.process_time()
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            if number > 1:  # the first compiles
                seconds, timed = seconds + time.process_time() - began, timed + 1
            if number % REPORT_EVERY == 0 or number == 1:
                kept = ("loss", "balance/", "grad_norm")
                rows[-1] |= {k: float(v) for k, v in metrics.items() if k.startswith(kept)}
        found = [jax.device_get(self.measure(state.params, batch)) for batch in self.val]
        val = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
        folder = self.folder / f"{name}_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = {"val": val, "seconds": seconds / timed, "num_steps": self.num_steps}
        (folder / "result.json").write_text(json.dumps(result))  # last: it says that the run is whole
        return result


def table(results: dict[str, list[dict]], names: list[str]) -> str:
    """A row a balance: accuracy on val of each objective, mean and half of its 95 % interval over seeds."""
    lines = ["| balance | " + " | ".join([*names, "mean", "CPU time of a step", "pairs in conflict"]) + " |"]
    lines.append("|" + "---|" * (len(names) + 4))
    cost = np.mean([r["seconds"] for r in results["Fixed"]])
    for name, runs in results.items():
        scores = np.asarray([[r["val"][f"{n}/accuracy"] for n in names] for r in runs])
        columns = [*scores.T, scores.mean(1)]
        cells = [cell(column).replace("0.", ".") for column in columns]
        cells.append(f"{np.mean([r['seconds'] for r in runs]) / cost:.2f} x")
        cells.append(f"{np.mean([r['conflict'] for r in runs]):.0%}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def share_in_conflict(metrics_file: Path) -> float:
    """Of all pairs in all steps measured, those whose gradients point against each other."""
    rows = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    return float(np.mean([v for row in rows for k, v in row.items() if k.startswith("conflict/share/")]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=240)
    given = parser.parse_args()
    bench, results = Bench(given.folder, given.steps), {name: [] for name in balances(given.steps)}
    for seed in range(3):
        for name in results:
            file = given.folder / f"{name}_{seed}" / "result.json"
            done = json.loads(file.read_text()) if file.exists() else bench.run(name, seed)
            results[name].append(done | {"conflict": share_in_conflict(file.with_name("metrics.jsonl"))})
            print(
                name,
                seed,
                {k: round(v, 3) for k, v in done["val"].items() if k.endswith("accuracy")},
                flush=True,
            )
    names = list(experiment(balance.Fixed(), given.steps, 0).objectives)
    print(table(results, names))
    conflict_map(given.folder / "Fixed_0" / "metrics.jsonl", given.folder / "conflicts.png")


if __name__ == "__main__":
    main()
