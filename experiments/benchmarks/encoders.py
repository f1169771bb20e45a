"""Compares the encoders of each modality with its transformer: the same head, data, steps and seed.

    taskset -c 0 python experiments/benchmarks/encoders.py            # all, some minutes
    taskset -c 0 python experiments/benchmarks/encoders.py text       # the rows of one modality

Data under $MMJAX_DATA: the digit of an image and of a recording (`avdigits`), the category of an emoji from
its keywords (`emoji_speech`), the command from video of a speaker's lips (`grid_s1`). Models are trained on
the training split and scored on val; nothing was tuned. Training is so short that the table shows how fast an
encoder learns and what it costs, not what it reaches. Sizes are not matched. FLOPs are those of matrix
products and convolutions.

Measured 2026-11-22 in commit 914bea8 (CPU, one core of a machine whose other core was busy, jax 0.10.2, seed
0). One run each, scored on 181, 300, 300 and 103 examples: differences of a few hundredths are chance. The
parameters and costs of the GAN are those of both networks, and it shares one gradient clip with the classes.

| text: 9 kinds of emoji | accuracy | parameters  | FLOPs a step | CPU ms a step |
|------------------------|----------|-------------|--------------|---------------|
| transformer            | 0.689    | 153 k x1.00 | 0.96 G x1.00 | 23 x1.00      |
| transformer, causal    | 0.694    | 153 k x1.00 | 0.96 G x1.00 | 21 x0.94      |
| LSTM, both ways        | 0.661    | 76 k x0.50  | 0.23 G x0.24 | 6 x0.26       |
| GRU, both ways         | 0.689    | 70 k x0.46  | 0.17 G x0.18 | 5 x0.24       |
| LSTM, one way          | 0.694    | 84 k x0.55  | 0.30 G x0.32 | 8 x0.34       |

| image: 10 digits   | accuracy | parameters  | FLOPs a step | CPU ms a step |
|--------------------|----------|-------------|--------------|---------------|
| ViT                | 0.867    | 104 k x1.00 | 0.65 G x1.00 | 15 x1.00      |
| ViT, ConvNeXt stem | 0.833    | 116 k x1.11 | 2.29 G x3.52 | 73 x4.73      |
| ResNet, 3 blocks   | 0.663    | 77 k x0.74  | 3.59 G x5.52 | 74 x4.80      |
| NaViT              | 0.873    | 105 k x1.01 | 0.65 G x1.00 | 16 x1.06      |
| NaViT, 2 a row     | 0.873    | 105 k x1.01 | 0.68 G x1.04 | 16 x1.04      |

| audio: 10 digits                     | accuracy | parameters  | FLOPs a step | CPU ms a step |
|--------------------------------------|----------|-------------|--------------|---------------|
| AST                                  | 0.967    | 112 k x1.00 | 1.26 G x1.00 | 27 x1.00      |
| convolutions + transformer (Whisper) | 0.990    | 135 k x1.21 | 1.60 G x1.27 | 29 x1.08      |
| 2-D CNN                              | 0.903    | 44 k x0.39  | 1.22 G x0.97 | 39 x1.45      |
| GAN's discriminator                  | 0.417    | 408 k x3.64 | 7.35 G x5.83 | 128 x4.70     |
| waveform (wav2vec 2.0's front)       | 0.847    | 191 k x1.70 | 9.21 G x7.31 | 188 x6.90     |

| video: 4 commands        | accuracy | parameters  | FLOPs a step   | CPU ms a step |
|--------------------------|----------|-------------|----------------|---------------|
| tubelets                 | 0.621    | 126 k x1.00 | 2.49 G x1.00   | 50 x1.00      |
| space, then time         | 0.301    | 119 k x0.94 | 2.80 G x1.12   | 46 x0.92      |
| ConvNeXt stem, then time | 0.738    | 112 k x0.89 | 26.11 G x10.47 | 529 x10.50    |
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmjax import data, encoders, fusion, heads, objectives, sharding, training
from mmjax.layers import Recurrent, Transformer
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.objectives.base import Metrics, Outputs, mean_where
from mmjax.training.flops import train_flops
from mmjax.views import Identity

DATA = Path(os.environ.get("MMJAX_DATA", Path(__file__).parents[3] / "shared" / "data"))
WIDTH, BATCH, STEPS, SEED = 64, 64, 150, 0
KINDS = ("Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body",
         "Smileys & Emotion", "Symbols", "Travel & Places")  # fmt: skip
COMMANDS = ("bin", "lay", "place", "set")
VOCAB = 800


class CrossEntropy(objectives.OneHeadObjective):
    """Softmax cross-entropy with the Labels in the stream "label"."""

    def __call__(self, outputs: Outputs) -> tuple[objectives.Mean, Metrics]:
        logits, label = outputs.predictions[self.head], outputs.batch["label"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label.values)
        is_correct = (logits.argmax(-1) == label.values).astype(jnp.float32)
        return mean_where(losses, label.mask), {"accuracy": mean_where(is_correct, label.mask)}


def trunk(depth: int = 2, **changes) -> Transformer:
    fields = dict(depth=depth, width=WIDTH, num_heads=4, mlp_width=4 * WIDTH, scan=False)
    return Transformer(**fields | changes)


def mel() -> encoders.LogMel:
    return encoders.LogMel(sample_rate_hz=8000, num_mels=40)


def cnn(**changes) -> encoders.ConvSpectrogram:
    return encoders.ConvSpectrogram(channels=(16, 32, 64), **changes)


# The first encoder of each modality is the transformer that the others are compared with.
TEXT = {
    "transformer": lambda: encoders.TextTransformer(VOCAB, trunk(), max_length=24),
    "transformer, causal": lambda: encoders.TextTransformer(VOCAB, trunk(causal=True), max_length=24),
    "LSTM, both ways": lambda: encoders.RecurrentText(VOCAB, Recurrent(depth=1, width=WIDTH)),
    "GRU, both ways": lambda: encoders.RecurrentText(VOCAB, Recurrent(depth=1, width=WIDTH, cell="gru")),
    "LSTM, one way": lambda: encoders.RecurrentText(
        VOCAB, Recurrent(depth=1, width=WIDTH, bidirectional=False)
    ),
}
IMAGE = {
    "ViT": lambda: encoders.ViT(encoders.LinearPatches((7, 7)), trunk()),
    "ViT, ConvNeXt stem": lambda: encoders.ViT(encoders.ConvNeXtStem(4, (32,), (1,)), trunk()),
    "ResNet, 3 blocks": lambda: encoders.ResNet(stages=(1, 1, 1), width=16, stem="small", num_groups=4),
}
PATCHES = {
    "NaViT": lambda: encoders.NaViT(trunk()),
    "NaViT, 2 a row": lambda: encoders.NaViT(trunk(), encoders.Packing(examples_per_row=2, row_length=32)),
}
AUDIO = {
    "AST": lambda: encoders.SpectrogramTransformer(mel(), encoders.FramePatches(4), trunk()),
    "convolutions + transformer (Whisper)": lambda: encoders.SpectrogramTransformer(
        mel(), encoders.ConvFrames(depth=2), trunk()
    ),
    "2-D CNN": lambda: encoders.SpectrogramCNN(mel(), cnn(), WIDTH),
    "GAN's discriminator": lambda: encoders.AdversarialSpectrogram(
        mel(), encoders.SpectrogramGenerator((64, 32, 16)), cnn(activation="leaky_relu"), WIDTH
    ),
    "waveform (wav2vec 2.0's front)": lambda: encoders.WaveformTransformer(
        encoders.ConvWaveform(64, (10, 8, 8, 4), (5, 4, 4, 2)), trunk()
    ),
}
VIDEO = {
    "tubelets": lambda: encoders.TubeletTransformer(encoders.Tubelets(2, (12, 16)), trunk()),
    "space, then time": lambda: encoders.FactorisedVideo(
        encoders.ViT(encoders.LinearPatches((12, 16)), trunk(1)), trunk(1)
    ),
    "ConvNeXt stem, then time": lambda: encoders.FactorisedVideo(
        encoders.ViT(encoders.ConvNeXtStem(4, (32,), (0,)), trunk(1)), trunk(1)
    ),
}


def digits(split: str, image: data.Transform) -> data.Dataset:
    streams = {
        "audio": data.AudioTransform("flac", sample_rate_hz=8000, seconds=1.0),
        "image": image,
        "label": data.LabelTransform("json.label"),
    }
    return data.Dataset(data.WebDataset(str(DATA / "avdigits" / f"{split}.tar")), streams, cache=True)


def emoji(split: str) -> data.Dataset:
    source = data.WebDataset(str(DATA / "emoji_speech" / "train.tar"))
    words = data.WordPiece(source, fields=("json.keywords",), vocab_size=VOCAB)
    streams = {
        "text": data.TextTransform("json.keywords", tokenizer=words, length=24),
        "label": data.LabelTransform("json.category", classes=KINDS),
    }
    return data.Dataset(data.WebDataset(str(DATA / "emoji_speech" / f"{split}.tar")), streams, cache=True)


def lips(split: str) -> data.Dataset:
    frames = data.ImageTransform("jpg", size=(96, 192), channels=1, subtract_mean_tile=(4, 6), std=0.1)
    streams = {
        "video": data.VideoTransform(frames, tiles=(4, 6)),
        "label": data.LabelTransform("json.slots.command", classes=COMMANDS),
    }
    return data.Dataset(data.WebDataset(str(DATA / "grid_s1" / f"{split}.tar")), streams, cache=True)


def pixels(split: str) -> data.Dataset:
    return digits(split, data.ImageTransform("png", size=(28, 28), channels=1))


def patches(split: str) -> data.Dataset:
    return digits(split, data.PatchesTransform("png", patch=7, max_patches=16, channels=1))


# modality -> [(stream, number of classes, dataset by split, encoders)]
SETS: dict[str, list[tuple[str, int, Callable, dict[str, Callable]]]] = {
    "text": [("text", len(KINDS), emoji, TEXT)],
    "image": [("image", 10, pixels, IMAGE), ("image", 10, patches, PATCHES)],
    "audio": [("audio", 10, pixels, AUDIO)],
    "video": [("video", len(COMMANDS), lips, VIDEO)],
}


def measure(stream: str, num_classes: int, datasets: Callable, encoder: nn.Module) -> dict[str, float]:
    """Trains one encoder. Returns val accuracy, parameters of the encoder, FLOPs and CPU seconds per step."""
    model_heads: dict[str, nn.Module] = {
        "class": heads.Classes(stream, num_classes=num_classes, pooling="mean", after="encoder")
    }
    losses: dict[str, nn.Module] = {"class": CrossEntropy("class")}
    if isinstance(encoder, encoders.AdversarialSpectrogram):
        model_heads["real"] = heads.RealOrGenerated(stream)
        losses["gan"] = objectives.Adversarial("real", stream)
    model = MultimodalModel(encoders={stream: encoder}, fusion=fusion.Late((stream,)), heads=model_heads)
    learner = Learner(model=model, objectives=losses)
    mixture = data.Mixture.of(datasets("train"), batch_size=BATCH)
    schedule = training.Schedule(warmup_steps=15)
    optimizer = training.AdamW(peak_learning_rate=2e-3, schedule=schedule, weight_decay=0.05).make(STEPS)
    mesh, rules = sharding.MeshShape().make(jax.devices()[:1]), sharding.REPLICATED
    spec = mixture.spec()
    state = training.create_state(learner, optimizer, spec, SEED, mesh, rules)
    abstract = training.abstract_state(learner, optimizer, spec, SEED, mesh, rules)
    step = training.jit_step(learner, optimizer, abstract, mesh, rules)
    flops = train_flops(learner, abstract.params, spec)
    sizes = [x.size for x in jax.tree.leaves(state.params["model"][f"encoders_{stream}"])]
    batch = None
    for batch, _ in data.batches(mixture, seed=SEED, start_step=0, num_steps=STEPS):
        state, _ = jax.block_until_ready(step(state, jax.device_put(batch)))
    params = jax.tree.map(jnp.copy, state.params)
    seconds = []
    for _ in range(10):  # CPU time of the process, with no loader running: other processes hardly change it
        start = time.process_time()
        state, _ = jax.block_until_ready(step(state, batch))
        seconds.append(time.process_time() - start)
    predict = training.Predictor(learner, params, mesh, rules)
    hits = []
    for batch in data.epoch(datasets("val"), BATCH):
        predictions, _ = predict(batch, Identity(), ("class",))
        label = batch["label"]
        hits.append((predictions["class"].argmax(-1) == label.values)[np.asarray(label.mask)])
    return {
        "accuracy": float(np.concatenate(hits).mean()),
        "params": sum(sizes),
        "flops": flops,
        "seconds": statistics.median(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("modality", nargs="*", help=f"any of {list(SETS)}; default: all")
    for modality in parser.parse_args().modality or SETS:
        print(
            f"\n| {modality} | accuracy | parameters | FLOPs a step | CPU ms a step |\n|---|---|---|---|---|"
        )
        reference: dict[str, float] = {}
        for stream, num_classes, datasets, constructors in SETS[modality]:
            for name, make in constructors.items():
                measured = measure(stream, num_classes, datasets, make())
                reference = reference or measured
                ratios = {key: measured[key] / reference[key] for key in ("params", "flops", "seconds")}
                print(
                    f"| {name} | {measured['accuracy']:.3f} | "
                    f"{measured['params'] / 1e3:.0f} k x{ratios['params']:.2f} | "
                    f"{measured['flops'] / 1e9:.2f} G x{ratios['flops']:.2f} | "
                    f"{1e3 * measured['seconds']:.0f} x{ratios['seconds']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
