"""Classifies ten kinds of sound from 238 training clips: mixup, label smoothing and masked spectrograms.

    mmjax train experiments/esc10.py

Data: `esc10` under $MMJAX_DATA (ESC-10: folds 1-3 train, 4 validates, 5 tests). Each step encodes its clips
twice, once mixed and once masked; the baseline in the first row encodes them once.

Accuracy after 1,000 steps, seeds 0 / 1 (CPU, 2026-11-22, Python 3.11, jax 0.10.2; 1:40 minutes of one core):

| objectives                                      | val, 80 clips | test, 80 clips |
|-------------------------------------------------|---------------|----------------|
| cross-entropy alone (SpecAugment, shifts)       |  .800 / .800  |  .763 / .775   |
| with mixup, label smoothing, masked patches     |  .863 / .838  |  .775 / .787   |
| logistic regression on log-mel statistics       |     .83       |      .86       |

The 95 % intervals for 80 clips are +-.09, so the test clips show no benefit. The linear model, which cannot
memorise 238 clips, is better. 400 steps at half the learning rate and alpha 0.4 gave .763 and .675; these
settings were changed once, because the training loss was still falling, and not because of the test clips.
"""

from mmjax import data, encoders, evals, fusion, heads, objectives, training, views
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

DATA = data.local("esc10")
CLASSES = (
    "dog bark", "rain", "sea waves", "baby cry", "clock tick", "sneeze", "helicopter", "chainsaw", "rooster",
    "fire crackling",
)  # fmt: skip
RATE_HZ, SECONDS = 16_000, 5.0
MEL = encoders.LogMel(sample_rate_hz=RATE_HZ, num_mels=40, window_seconds=0.04, hop_seconds=0.02)
PATCH_FRAMES = 10  # 0.2 seconds
NUM_PATCHES = 25
WIDTH = 64


def clips(split: str, *, augment: bool = False) -> data.Dataset:
    """Five seconds of audio and their class."""
    return data.Dataset(
        source=data.WebDataset(DATA.path(f"{split}.tar"), hint=DATA.hint),
        streams={
            "audio": data.AudioTransform(
                "ogg", sample_rate_hz=RATE_HZ, seconds=SECONDS, shift_seconds=1.0 if augment else 0.0
            ),
            "label": data.LabelTransform("json.label", CLASSES),
        },
        cache=True,
    )


def trunk(depth: int, width: int, dropout: float = 0.0) -> Transformer:
    return Transformer.of(depth, width, num_heads=4, dropout=dropout, scan=False)


def experiment() -> Experiment:
    masked = views.MaskPatches(
        "audio", grid=(NUM_PATCHES, 1), rate=0.6, samples_per_patch=round(0.02 * RATE_HZ) * PATCH_FRAMES
    )
    return Experiment(
        name="esc10",
        num_steps=1000,
        data=data.Mixture.of(clips("train", augment=True), batch_size=32),
        model=MultimodalModel(
            encoders={
                "audio": encoders.SpectrogramTransformer(
                    mel=MEL,
                    stem=encoders.FramePatches(frames=PATCH_FRAMES),
                    augment=encoders.SpecAugment(
                        num_time_masks=2, max_mask_frames=40, num_mel_masks=2, max_mask_mels=8
                    ),
                    trunk=trunk(2, WIDTH, dropout=0.1),
                )
            },
            fusion=fusion.Late(),
            heads={
                "sound": heads.Classes("audio", num_classes=10, pooling="mean", after="encoder"),
                "spectrogram": heads.Reconstruction(
                    "audio", num_patches=NUM_PATCHES, patch_dim=PATCH_FRAMES * 40, trunk=trunk(1, 32)
                ),
            },
        ),
        objectives={
            "sound": objectives.Classification(
                "sound", streams=("audio",), label_smoothing=0.1, view=views.Mixup(("audio",), alpha=0.2)
            ),
            "spectrogram": objectives.MaskedSpectrogram(
                "spectrogram", "audio", MEL, PATCH_FRAMES, view=masked
            ),
        },
        optimizer=training.AdamW(
            peak_learning_rate=2e-3, schedule=training.Schedule(warmup_steps=50), weight_decay=0.05
        ),
        evals={
            "val": evals.Classification(data=clips("val"), head="sound", streams=("audio",)),
            "test": evals.Classification(
                data=clips("test"), head="sound", streams=("audio",), train=clips("train")
            ),
        },
        save_every=500,
    )
