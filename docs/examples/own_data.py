"""Aligns your own images, recordings and captions pairwise, and predicts masked words from them.

    OWN_DATA=my_folder mmjax train docs/examples/own_data.py

my_folder contains train.tar and test.tar. 7.jpg, 7.wav and 7.txt are one example; any of them may be missing:

    cd my_folder/train && tar --sort=name -cf ../train.tar *
"""

import os
from pathlib import Path

from mmjax import data, encoders, evals, fusion, heads, objectives, training, views
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

FOLDER = Path(os.environ.get("OWN_DATA", "own_data"))
STREAMS = ("image", "audio", "text")
VOCAB = 2000  # if your captions yield fewer tokens, the error message gives the number to put here
WIDTH = 64


def examples(split: str, *, augment: bool) -> data.Dataset:
    """A field is named by its file's extension: "jpg", or "json.caption" for a key of 7.json."""
    captions = data.WordPiece(data.WebDataset(str(FOLDER / "train.tar")), ("txt",), vocab_size=VOCAB)
    crop = (0.6, 1.0) if augment else None
    return data.Dataset(
        source=data.WebDataset(str(FOLDER / f"{split}.tar")),
        streams={
            "image": data.ImageTransform("jpg", size=(64, 64), crop_scale=crop, optional=True),
            "audio": data.AudioTransform("wav", sample_rate_hz=16_000, seconds=2.0, optional=True),
            "text": data.TextTransform("txt", tokenizer=captions, length=24, optional=True),
        },
    )


def trunk() -> Transformer:  # a function, so that every encoder has its own parameters
    return Transformer.of(2, WIDTH, num_heads=4)


def experiment() -> Experiment:
    masked = views.Chain(
        (views.MaskTokens("text", vocab=VOCAB), views.DropStreams((("image", 0.3), ("audio", 0.3))))
    )
    return Experiment(
        name="own_data",
        num_steps=2000,
        data=data.Mixture.of(examples("train", augment=True), batch_size=64),
        model=MultimodalModel(
            encoders={
                "image": encoders.ViT(stem=encoders.LinearPatches(patch=(16, 16)), trunk=trunk()),
                "audio": encoders.SpectrogramTransformer(
                    mel=encoders.LogMel(sample_rate_hz=16_000, num_mels=40),
                    stem=encoders.FramePatches(frames=8),
                    trunk=trunk(),
                ),
                "text": encoders.TextTransformer(vocab=VOCAB, max_length=24, trunk=trunk()),
            },
            fusion=fusion.CoAttention(
                streams=STREAMS,
                updated_streams=("text",),
                depth=1,
                width=WIDTH,
                num_heads=4,
                mlp_width=4 * WIDTH,
            ),
            heads={stream: heads.PooledEmbedding(stream, dim=128) for stream in STREAMS}
            | {"words": heads.TokenLogits("text")},
        ),
        objectives={
            "image_text": objectives.InfoNCE("image", "text", match_by="text"),
            "audio_text": objectives.InfoNCE("audio", "text", match_by="text"),
            "image_audio": objectives.InfoNCE("image", "audio", match_by="text"),
            "hidden_words": objectives.MaskedLanguage("words", view=masked, weight=0.5),
        },
        optimizer=training.AdamW(peak_learning_rate=1e-3, schedule=training.Schedule(warmup_steps=100)),
        evals={"retrieval": evals.Retrieval(data=examples("test", augment=False), heads=STREAMS)},
    )
