"""Compares contrastive losses with the same encoders, data, steps and seeds: R@5 of retrieval.

    python experiments/benchmarks/contrastive.py train [NAME ...] [--seeds 0 1 2] [--steps N]
    python experiments/benchmarks/contrastive.py table

Data: the emoji in the repository; images and names are real, the speech is synthesised. Runs are in
runs/contrastive/; finished ones are skipped. Each run is scored once on the 198 unseen concepts, and nothing
was tuned for any loss. `table` prints the finished runs; results, with date and commit: docs/contrastive.md.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from seeds import cell, recorded

from mmjax import data, encoders, evals, fusion, heads, objectives, training, views
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel
from mmjax.run import loop

FOLDER = Path(__file__).parents[1] / "data" / "emoji_speech"
RUNS = Path("runs") / "contrastive"
WIDTH, SHARED, VOCAB, BATCH, STEPS = 64, 64, 115, 64, 400
STREAMS = ("image", "audio", "text")
PAIRS = (("image", "text"), ("audio", "text"), ("image", "audio"))


def pairwise(**fields) -> dict:
    return {f"{a}_{b}": objectives.InfoNCE(a, b, match_by="text", **fields) for a, b in PAIRS}


def halfway() -> dict:
    """InfoNCE on the hidden states after each encoder's first layer, at half the weight."""
    return {
        f"{a}_{b}_halfway": objectives.InfoNCE(
            f"{a}_halfway", f"{b}_halfway", streams=(a, b), match_by="text", weight=0.5
        )
        for a, b in PAIRS
    }


HARD_NEGATIVES = views.HardNegatives("image", "text", heads=("image", "text"))
# A loss that is a mean over the three pairs gets weight 3, to match the sum of three losses.
CONTRASTS = {
    "pairs": lambda: pairwise(),
    "smoothed": lambda: pairwise(label_smoothing=0.1),
    "decoupled": lambda: pairwise(decoupled=True),
    "hard": lambda: pairwise(beta=0.5),
    "debiased": lambda: pairwise(tau_plus=0.05),
    "sigmoid": lambda: {f"{a}_{b}": objectives.SigmoidPairs(a, b, match_by="text") for a, b in PAIRS},
    "each": lambda: {"all": objectives.MultiwayInfoNCE(STREAMS, match_by="text", weight=3.0)},
    "others": lambda: {
        "all": objectives.MultiwayInfoNCE(STREAMS, against="others", match_by="text", weight=3.0)
    },
    "layers": lambda: pairwise() | halfway(),
    "matching": lambda: pairwise() | {"matches": objectives.Matching("matches", view=HARD_NEGATIVES)},
}


def emoji(split: str, *, images: str | tuple[str, ...], augment: bool = False) -> data.Dataset:
    """Image, spoken name and written name."""
    words = data.WordPiece(
        data.WebDataset(str(FOLDER / "train.tar")), fields=("json.name", "json.keywords"), vocab_size=VOCAB
    )
    return data.Dataset(
        source=data.WebDataset(str(FOLDER / f"{split}.tar")),
        streams={
            "image": data.ImageTransform(images, size=(32, 32), crop_scale=(0.5, 1.0) if augment else None),
            "audio": data.AudioTransform(
                "ogg", sample_rate_hz=16_000, seconds=1.6, gain_db=6.0 if augment else 0.0
            ),
            "text": data.TextTransform("json.name", tokenizer=words, length=24),
        },
        cache=True,
    )


def trunk(taps: tuple[int, ...]) -> Transformer:
    return Transformer(depth=2, width=WIDTH, num_heads=4, mlp_width=4 * WIDTH, taps=taps, scan=False)


def experiment(name: str, seed: int, num_steps: int = STEPS) -> Experiment:
    """The experiment of one run. name: a key of CONTRASTS."""
    matching, taps = name == "matching", (1,) if name == "layers" else ()
    co_attention = fusion.CoAttention(
        streams=("image", "text"),
        updated_streams=("text",),
        depth=1,
        width=WIDTH,
        num_heads=4,
        mlp_width=4 * WIDTH,
    )
    return Experiment(
        name=name,
        seed=seed,
        num_steps=num_steps,
        data=data.Mixture.of(
            emoji("train", images=("noto.png", "twemoji.png"), augment=True), batch_size=BATCH
        ),
        model=MultimodalModel(
            encoders={
                "image": encoders.ViT(stem=encoders.LinearPatches(patch=(8, 8)), trunk=trunk(taps)),
                "audio": encoders.SpectrogramTransformer(
                    mel=encoders.LogMel(sample_rate_hz=16_000, num_mels=40),
                    stem=encoders.FramePatches(frames=4),
                    augment=encoders.SpecAugment(num_time_masks=1, max_mask_frames=10),
                    trunk=trunk(taps),
                ),
                "text": encoders.TextTransformer(
                    vocab=VOCAB, max_length=24, hash_ngrams=(3, 4), hash_buckets=4096, trunk=trunk(taps)
                ),
            },
            fusion=co_attention if matching else fusion.Late(),
            heads={stream: heads.PooledEmbedding(stream, dim=SHARED) for stream in STREAMS}
            | {f"{s}_halfway": heads.PooledEmbedding(s, dim=SHARED, hidden_state=0) for s in STREAMS if taps}
            | ({"matches": heads.MatchingLogit("text")} if matching else {}),
        ),
        objectives=CONTRASTS[name](),
        optimizer=training.AdamW(
            peak_learning_rate=2e-3, schedule=training.Schedule(warmup_steps=50), weight_decay=0.1
        ),
        evals={"unseen": evals.Retrieval(data=emoji("test", images="noto.png"), heads=STREAMS)},
        save_every=1000,
        max_to_keep=1,
    )


def recalls(name: str) -> dict[int, np.ndarray]:
    """{seed: R@5 of each pair, mean of both directions} of the finished runs."""
    runs = {int(folder.name): recorded(folder) for folder in sorted((RUNS / name).glob("*"))}
    return {
        seed: np.array([(run[f"{a}->{b}/R@5"] + run[f"{b}->{a}/R@5"]) / 2 for a, b in PAIRS])
        for seed, run in runs.items()
        if run
    }


def table() -> str:
    """A row per loss: R@5 of each pair, and the mean gain over InfoNCE (`pairs`) with the same seed."""
    lines = [f"| contrast | {' | '.join(f'{a} - {b}' for a, b in PAIRS)} | mean | gain | seeds |"]
    lines.append("|---|" + "---|" * (len(PAIRS) + 3))
    baseline = recalls("pairs")
    for name in CONTRASTS:
        by_seed = recalls(name)
        if not by_seed:
            continue
        scores = np.stack([*by_seed.values()])
        gains = [(by_seed[seed] - baseline[seed]).mean() for seed in by_seed.keys() & baseline.keys()]
        cells = [*map(cell, (*scores.T, scores.mean(1))), cell(np.array(gains), "+") if gains else ""]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(scores)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("train", "table"))
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(CONTRASTS)}; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(CONTRASTS))
    if unknown:
        parser.error(f"unknown contrasts {unknown}; known: {[*CONTRASTS]}")
    if arguments.verb == "table":
        print(table())
        return
    jax.config.update(
        "jax_compilation_cache_dir", str(RUNS / "compiled")
    )  # all seeds compile the same program
    for seed in arguments.seeds:
        for name in arguments.names or CONTRASTS:
            folder = RUNS / name / str(seed)
            if not recorded(folder, arguments.steps):
                loop.run(experiment(name, seed, arguments.steps), folder, devices=jax.devices()[:1])


if __name__ == "__main__":
    main()
