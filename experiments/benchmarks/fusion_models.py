"""The tasks, models and experiments that fusion.py compares."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from mmjax import data, encoders, evals, fusion, heads, objectives, training, views
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.training.flops import train_flops

DATA = Path(os.environ.get("MMJAX_DATA", Path(__file__).parents[3] / "shared" / "data"))
HINT = "Set MMJAX_DATA to the folder that holds grid_s1/ and avdigits/ (see docs/data.md)"
WIDTH, NUM_HEADS = 64, 4
STREAMS = ("text", "image", "audio")
SLOTS = ("command", "color", "preposition", "letter", "digit", "adverb")


def trunk(depth: int, mlp_width: int = 4 * WIDTH, dropout: float = 0.1, taps: tuple[int, ...] = ()):
    return Transformer(
        depth=depth, width=WIDTH, num_heads=NUM_HEADS, mlp_width=mlp_width, dropout=dropout, taps=taps,
        scan=False,
    )  # fmt: skip


# Fields shared by fusions that pool each stream to one vector, and by those with attention. Each mlp_width
# is chosen so that all models have about the same size.
POOLED = dict(width=WIDTH, updated_stream="text", dropout=0.1)
ATTENTION = dict(width=WIDTH, num_heads=NUM_HEADS, dropout=0.1)
UPDATING = ATTENTION | dict(updated_stream="text")
VOTING = ATTENTION | dict(query_stream="text")

FUSIONS: dict[str, Callable[[tuple[str, ...], int], nn.Module]] = {
    "mean": lambda s, v: fusion.Mean(s, mlp_width=128, trunk=trunk(1), **POOLED),
    "concat": lambda s, v: fusion.ConcatMlp(s, mlp_width=96, hidden_width=64, trunk=trunk(1), **POOLED),
    "gated": lambda s, v: fusion.GatedSum(s, mlp_width=128, trunk=trunk(1), **POOLED),
    "crossing": lambda s, v: fusion.ChannelCross(s, mlp_width=88, rank=16, trunk=trunk(1), **POOLED),
    "single_stream": lambda s, v: fusion.SingleStream(s, trunk=trunk(1, mlp_width=128)),
    "co_attention": lambda s, v: fusion.CoAttention(
        s, depth=2, updated_streams=("text",), mlp_width=128, **ATTENTION
    ),
    "bottleneck": lambda s, v: fusion.Bottleneck(s, depth=2, mlp_width=32, **UPDATING),
    "resampler": lambda s, v: fusion.Resampler(s, depth=1, num_latents=12, mlp_width=128, **UPDATING),
    "q_former": lambda s, v: fusion.QFormer(s, depth=2, mlp_width=128, **UPDATING),
    "prefix": lambda s, v: fusion.Prefix(s, updated_stream="text", trunk=trunk(1, mlp_width=128)),
    "hierarchical": lambda s, v: fusion.Hierarchical(s, depth=2, mlp_width=128, **UPDATING),
    "votes_mean": lambda s, v: fusion.LateVoting(s, num_classes=v, mlp_width=56, vote="mean", **VOTING),
    "votes_confidence": lambda s, v: fusion.LateVoting(
        s, num_classes=v, mlp_width=56, vote="confidence", **VOTING
    ),
    "votes_product": lambda s, v: fusion.LateVoting(s, num_classes=v, mlp_width=56, vote="product", **VOTING),
}
# Specialists: co-attention trained with one modality only.
ALONE = {"speech_alone": ("text", "audio"), "pictures_alone": ("text", "image")}


@dataclasses.dataclass(frozen=True)
class Task:
    """A dataset, its encoders, and the text whose masked words are predicted."""

    folder: str
    num_steps: int
    vocab: int
    length: int  # tokens of a text
    slots: tuple[str, ...]
    streams: Callable[[bool], dict]  # augment -> transforms of image and audio
    encoders: Callable[[], dict[str, nn.Module]]

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
        """The experiment of one run. name: a key of FUSIONS or ALONE."""
        streams = ALONE.get(name, STREAMS)
        make = FUSIONS["co_attention" if name in ALONE else name]
        used_encoders = {
            stream: with_middle_tap(encoder) if name == "hierarchical" else encoder
            for stream, encoder in (self.encoders() | {"text": self.text()}).items()
            if stream in streams
        }
        head = heads.Votes("votes") if name.startswith("votes") else heads.TokenLogits("text")
        masked = views.MaskTokens(
            "text", vocab=self.vocab, unit="all", mask_token_probability=1.0, random_token_probability=0.0
        )
        context = tuple(stream for stream in ("image", "audio") if stream in streams)
        # Encoders run once per step; the cheaper fusion runs with both modalities and with each alone.
        context_views = {"both": masked}
        if len(context) > 1:
            context_views |= {
                "speech": views.Chain((masked, views.DropStreams((("image", 1.0),)))),
                "pictures": views.Chain((masked, views.DropStreams((("audio", 1.0),)))),
            }
        return Experiment(
            name=name,
            seed=seed,
            num_steps=num_steps or self.num_steps,
            data=data.Mixture.of(self.dataset("train", augment=True), batch_size=32),
            model=MultimodalModel(
                encoders=used_encoders, fusion=make(streams, self.vocab), heads={"words": head}
            ),
            objectives={
                context: objectives.MaskedLanguage("words", view=view)
                for context, view in context_views.items()
            },
            optimizer=training.AdamW(
                peak_learning_rate=2e-3, schedule=training.Schedule(warmup_steps=100), weight_decay=0.05
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


def with_middle_tap(encoder: nn.Module) -> nn.Module:
    """The encoder, returning also the hidden states after half its layers."""
    return encoder.clone(trunk=encoder.trunk.clone(taps=(encoder.trunk.depth // 2,)))


def sentences(augment: bool) -> dict:
    """grid_s1: 24 mouth frames as one sheet of 4 x 6 tiles, and three seconds of speech.

    One crop for all frames of a clip keeps the model from memorising lips; noise on the speech keeps it from
    relying on speech alone.
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


def sentence_encoders() -> dict[str, nn.Module]:
    return {
        "image": encoders.ViT(
            stem=encoders.ConvPatches(patch=(24, 32), kernel_size=4, stride=4), trunk=trunk(2, dropout=0.3)
        ),
        "audio": encoders.SpectrogramTransformer(
            mel=encoders.LogMel(sample_rate_hz=16_000, num_mels=40),
            stem=encoders.ConvFrames(depth=3, kernel_size=5, stride=2),
            augment=encoders.SpecAugment(num_time_masks=1, max_mask_frames=8),
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


def digit_encoders() -> dict[str, nn.Module]:
    return {
        "image": encoders.ViT(stem=encoders.LinearPatches(patch=(7, 7)), trunk=trunk(6)),
        "audio": encoders.SpectrogramTransformer(
            mel=encoders.LogMel(sample_rate_hz=8000, num_mels=40),
            stem=encoders.FramePatches(frames=4),
            augment=encoders.SpecAugment(num_time_masks=1, num_mel_masks=1, max_mask_mels=6),
            trunk=trunk(6),
        ),
    }


TASKS = {
    "grid_s1": Task(
        folder="grid_s1", num_steps=1600, vocab=115, length=8, slots=SLOTS, streams=sentences,
        encoders=sentence_encoders,
    ),
    "avdigits": Task(
        folder="avdigits", num_steps=400, vocab=60, length=3, slots=("digit",), streams=digits,
        encoders=digit_encoders,
    ),
}  # fmt: skip


def sizes(task: Task, name: str) -> tuple[int, float]:
    """The numbers of parameters and of training FLOPs per example, from shapes alone."""
    experiment = task.experiment(name, seed=0)
    learner = Learner(model=experiment.model, objectives=experiment.objectives)
    spec = experiment.data.spec()

    def init():
        keys = {"params": jax.random.key(0), "views": jax.random.key(0), "dropout": jax.random.key(0)}
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), spec)
        return nn.meta.unbox(learner.init(keys, zeros)["params"])

    params = jax.eval_shape(init)
    num_parameters = sum(x.size for x in jax.tree.leaves(params))
    return num_parameters, train_flops(learner, params, spec) / experiment.data.batch_size
