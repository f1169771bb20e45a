"""Compares all balances on the same five objectives, data, steps and seeds: accuracy and cost.

    MMJAX_DATA=../shared/data python experiments/benchmarks/balance.py runs/balance

Data: `avdigits` (docs/data.md). A small model aligns speech, handwriting and word pairwise, and predicts the
masked word from speech alone and from handwriting alone. Runs whose results are in the folder are skipped, so
that an interrupted command can be continued. Scores are on the 300 examples of val. Cost is the CPU time of
the process in steps, without compilation; other work on the machine hardly changes it. Results, with date and
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
from mmjax.run.session import Session

DATA = data.local("avdigits")
WIDTH, VOCAB, BATCH, REPORT_EVERY = 32, 60, 64, 10
SHARED = ("model/encoders_audio", "model/encoders_image", "model/encoders_text", "model/fusion")


def balances(num_steps: int) -> dict[str, balance.Balance]:
    """Every balance by name, with default settings where it has them."""
    late_start = ((0, 0.0), (num_steps // 4, 0.0), (num_steps // 2, 1.0))
    constructors = {
        "Fixed": functools.partial(balance.Fixed),
        # Alignment first, masked words later.
        "Scheduled": functools.partial(
            balance.Scheduled, schedules={"heard_word": late_start, "seen_word": late_start}
        ),
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
    return {name: make(shared_params=SHARED) for name, make in constructors.items()}


def digits(split: str, *, augment: bool) -> data.Dataset:
    """Recording, image and word of a digit."""
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


def mask_word(stream: str) -> views.Chain:
    """Masks the word, and drops all other streams but `stream`."""
    dropped = {"audio": "image", "image": "audio"}[stream]
    mask = views.MaskTokens(
        "text", vocab=VOCAB, unit="all", mask_token_probability=1.0, random_token_probability=0.0
    )
    return views.Chain((mask, views.DropStreams(((dropped, 1.0),))))


def experiment(strategy: balance.Balance, num_steps: int, seed: int) -> Experiment:
    streams = ("text", "image", "audio")
    return Experiment(
        name="balance",
        num_steps=num_steps,
        seed=seed,
        balance=strategy,
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
                streams=streams,
                updated_streams=("text",),
                depth=1,
                width=WIDTH,
                num_heads=2,
                mlp_width=2 * WIDTH,
            ),
            heads={stream: heads.PooledEmbedding(stream, dim=WIDTH) for stream in streams}
            | {"words": heads.TokenLogits("text")},
        ),
        objectives={
            "audio_text": objectives.InfoNCE("audio", "text", match_by="text"),
            "image_text": objectives.InfoNCE("image", "text", match_by="text"),
            "audio_image": objectives.InfoNCE("audio", "image", match_by="text"),
            "heard_word": objectives.MaskedLanguage("words", view=mask_word("audio")),
            "seen_word": objectives.MaskedLanguage("words", view=mask_word("image")),
        },
        optimizer=training.AdamW(
            peak_learning_rate=2e-3,
            schedule=training.Schedule(warmup_steps=num_steps // 10),
            weight_decay=0.05,
        ),
    )


class Bench:
    """Runs balances in one process; runs share compiled functions and the batches of a seed."""

    def __init__(self, folder: Path, num_steps: int):
        self.folder, self.num_steps = folder, num_steps
        self.step, self.session = functools.cache(self._step), functools.cache(self._session)
        self.val_metrics = jax.jit(self._val_metrics)
        self.val = [batch for batch in data.epoch(digits("val", augment=False), 100)]
        self.batches: tuple[int, list] = (-1, [])

    def _session(self, name: str) -> Session:
        return Session.of(experiment(balances(self.num_steps)[name], self.num_steps, 0), jax.devices()[:1])

    def _step(self, name: str):
        s = self.session(name)
        return training.jit_step(s.learner, s.optimizer, s.abstract, s.mesh, s.experiment.rules)

    @functools.cached_property
    def conflicts(self):
        s = self.session("Fixed")
        return training.jit_conflicts(s.learner, s.abstract, s.mesh, s.experiment.rules)

    def _val_metrics(self, params, batch):
        """Losses and accuracies of one batch of val. All words are masked: the key has no effect."""
        learner, rngs = self.session("Fixed").learner, {"views": jax.random.key(0)}
        return learner.apply({"params": params}, batch, train=False, rngs=rngs, method="weighted_losses")[1]

    def seed_batches(self, seed: int) -> list:
        """All batches of a run, in memory: the same for every balance, and no step waits for input."""
        if self.batches[0] != seed:
            mixture = experiment(balance.Fixed(), self.num_steps, seed).data
            batches = data.batches(mixture, seed=seed, start_step=0, num_steps=self.num_steps)
            self.batches = (seed, [batch for batch, _ in batches])
        return self.batches[1]

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def initial_state(self, seed: int):
        """The initial state, on the host, because the step donates its input buffers."""
        s = self.session("Fixed")
        return jax.device_get(
            dataclasses.replace(s, experiment=experiment(balance.Fixed(), self.num_steps, seed)).new_state()
        )

    def run(self, name: str, seed: int) -> dict:
        """Trains once. Returns val scores and CPU seconds per step; writes them and the conflicts."""
        learner, step = self.session(name).learner, self.step(name)
        start = self.initial_state(seed).replace(balance=learner.balance.init(len(learner.objectives)))
        # Copy each leaf: the step donates its buffers, and two leaves may be the same array.
        state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), start)
        rows, seconds, timed = [], 0.0, 0
        for number, batch in enumerate(self.seed_batches(seed), 1):
            if number % REPORT_EVERY == 0 or number == 1:
                state_without_balance = state.replace(balance=())
                rows.append(
                    {"step": number}
                    | conflict.mean_report([jax.device_get(self.conflicts(state_without_balance, batch))])
                )
            start_time = time.process_time()
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            if number > 1:  # the first compiles
                seconds, timed = seconds + time.process_time() - start_time, timed + 1
            if number % REPORT_EVERY == 0 or number == 1:
                prefixes = ("loss", "balance/", "grad_norm")
                rows[-1] |= {k: float(v) for k, v in metrics.items() if k.startswith(prefixes)}
        batch_metrics = [jax.device_get(self.val_metrics(state.params, batch)) for batch in self.val]
        val = {key: float(np.mean([each[key] for each in batch_metrics])) for key in batch_metrics[0]}
        folder = self.folder / f"{name}_{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = {"val": val, "seconds": seconds / timed, "num_steps": self.num_steps}
        (folder / "result.json").write_text(json.dumps(result))  # written last: it marks the run as finished
        return result


def table(results: dict[str, list[dict]], names: list[str]) -> str:
    """A row per balance: val accuracy of each objective, mean over seeds and half its 95 % interval."""
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


def fraction_in_conflict(metrics_file: Path) -> float:
    """The fraction of pairs, over all measured steps, whose gradients have a negative cosine."""
    rows = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    return float(np.mean([v for row in rows for k, v in row.items() if k.startswith("conflict/share/")]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=240)
    arguments = parser.parse_args()
    bench, results = (
        Bench(arguments.folder, arguments.steps),
        {name: [] for name in balances(arguments.steps)},
    )
    for seed in range(3):
        for name in results:
            file = arguments.folder / f"{name}_{seed}" / "result.json"
            done = json.loads(file.read_text()) if file.exists() else bench.run(name, seed)
            results[name].append(done | {"conflict": fraction_in_conflict(file.with_name("metrics.jsonl"))})
            print(
                name,
                seed,
                {k: round(v, 3) for k, v in done["val"].items() if k.endswith("accuracy")},
                flush=True,
            )
    names = list(experiment(balance.Fixed(), arguments.steps, 0).objectives)
    print(table(results, names))
    conflict_map(arguments.folder / "Fixed_0" / "metrics.jsonl", arguments.folder / "conflicts.png")


if __name__ == "__main__":
    main()
