"""Generates the name of an emoji from its image and its spoken name: a contrastive captioner (CoCa).

    mmjax train experiments/captions.py

As in CoCa (Yu et al. 2022), the last position of a causal text encoder is contrasted with images and with
speech, and a causal decoder over that encoder attends to both. Images and names are real; the speech is
synthesised (eSpeak NG).

Measured on the 198 test names (seeds 0 / 1; CPU, 2026-11-22, jax 0.10.2; 2:30 minutes of one core). Nothing
was tuned. Tokens are letters. "nearest" is the name of the training example with the nearest raw features:

| input   | next letter | letter errors | word errors   | nearest: letters, words |
|---------|-------------|---------------|---------------|-------------------------|
| nothing | .379 / .376 | 1.072 / .942  | 1.189 / 1.189 |                         |
| image   | .398 / .400 | .927 / .870   | 1.107 / 1.036 | .753, .811              |
| speech  | .462 / .484 | .717 / .715   | .877 / .905   | .709, .819              |
| both    | .462 / .481 | .726 / .730   | .861 / .934   |                         |

The model uses the speech but does not spell yet: at most 1 of the 198 names is entirely correct, and the
name of the nearest recording is as close. The text encoder's last position retrieves names well from speech
(R@5 .879 / .848, transfer .374), and hardly from images (.111 / .141, transfer .338). The loss is still
falling after 500 steps.
"""

from pathlib import Path

from mmjax import data, encoders, evals, fusion, heads, objectives, training, views
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

FOLDER = Path(__file__).parent / "data" / "emoji_speech"
WIDTH = 64
VOCAB = 115  # characters, separately at the start of a word and within it
LENGTH = 24
SHARED = 128


def emoji(split: str, *, images: str | tuple[str, ...] = "noto.png", augment: bool = False) -> data.Dataset:
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
            "text": data.TextTransform("json.name", tokenizer=words, length=LENGTH),
        },
        cache=True,
    )


def trunk(depth: int, causal: bool = False) -> Transformer:
    return Transformer.of(depth, WIDTH, num_heads=4, dropout=0.1, causal=causal, scan=False)


def experiment() -> Experiment:
    train, test = emoji("train"), emoji("test")
    streams = ("image", "audio", "text")
    return Experiment(
        name="captions",
        num_steps=500,
        data=data.Mixture.of(emoji("train", images=("noto.png", "twemoji.png"), augment=True), batch_size=64),
        model=MultimodalModel(
            encoders={
                "image": encoders.ViT(stem=encoders.LinearPatches(patch=(8, 8)), trunk=trunk(2)),
                "audio": encoders.SpectrogramTransformer(
                    mel=encoders.LogMel(sample_rate_hz=16_000, num_mels=40),
                    stem=encoders.FramePatches(frames=4),
                    augment=encoders.SpecAugment(
                        time_stretch=0.25, mel_stretch=0.15, num_time_masks=1, max_mask_frames=10
                    ),
                    trunk=trunk(2),
                ),
                "text": encoders.TextTransformer(vocab=VOCAB, max_length=LENGTH, trunk=trunk(1, causal=True)),
            },
            fusion=fusion.CoAttention(
                streams=streams,
                updated_streams=("text",),
                causal_streams=("text",),
                depth=2,
                width=WIDTH,
                num_heads=4,
                mlp_width=4 * WIDTH,
                dropout=0.1,
            ),
            heads={
                "image": heads.PooledEmbedding("image", dim=SHARED),
                "audio": heads.PooledEmbedding("audio", dim=SHARED),
                "text": heads.PooledEmbedding("text", dim=SHARED, pooling="last"),
                "caption": heads.TokenLogits("text"),
            },
        ),
        objectives={
            "image_text": objectives.InfoNCE("image", "text", match_by="text", label_smoothing=0.1),
            "audio_text": objectives.InfoNCE("audio", "text", match_by="text", label_smoothing=0.1),
            # Twice the contrastive weight, as in the paper. Each input is dropped from 30 % of the examples.
            "caption": objectives.CausalLanguage(
                "caption", weight=2.0, view=views.DropStreams((("image", 0.3), ("audio", 0.3)))
            ),
        },
        optimizer=training.AdamW(
            peak_learning_rate=2e-3, schedule=training.Schedule(warmup_steps=100), weight_decay=0.1
        ),
        evals={
            "unseen": evals.Captions(
                data=test, head="caption", context=("image", "audio"), subsets=True, train=train
            ),
            "retrieval": evals.Retrieval(data=test, heads=streams, train=train),
        },
        save_every=500,
    )
