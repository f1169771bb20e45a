"""Cross-modal distillation: an image classifier learns from a speech classifier, without image labels.

    mmjax train experiments/pupil.py

Data: `avdigits` under $MMJAX_DATA (Free Spoken Digit Dataset + MNIST). The audio encoder learns digits from
labels. The image encoder learns only from the softened predictions of the audio classifier on the recording
that is paired with each image (Gupta et al. 2016, "Cross Modal Distillation for Supervision Transfer"; Hinton
et al. 2015).

Measured on the 300 test pairs (seeds 0 / 1; CPU, 2026-11-22, jax 0.10.2; 1:20 minutes of one core). Nothing
was tuned. The linear models were trained with labels of both modalities:

| accuracy          | model       | interval, seed 0 | linear | guessing |
|-------------------|-------------|------------------|--------|----------|
| speech (labels)   | .983 / .983 |   [.967, .997]   |  .943  |   .100   |
| images (student)  | .937 / .950 |   [.907, .960]   |  .893  |   .100   |
"""

from mmjax import data, encoders, evals, fusion, heads, objectives, training
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

DATA = data.local("avdigits")
WIDTH = 64


def digits(split: str, *, augment: bool = False) -> data.Dataset:
    """Recording, image and label of a digit."""
    return data.Dataset(
        source=data.WebDataset(DATA.path(f"{split}.tar"), hint=DATA.hint),
        streams={
            "audio": data.AudioTransform(
                "flac", sample_rate_hz=8000, seconds=1.0, shift_seconds=0.1 if augment else 0.0
            ),
            "image": data.ImageTransform("png", size=(28, 28), channels=1, shift=2 if augment else 0),
            "label": data.LabelTransform("json.label"),
        },
        cache=True,
    )


def trunk() -> Transformer:
    return Transformer.of(2, WIDTH, num_heads=4, dropout=0.1, scan=False)


def experiment() -> Experiment:
    test, train = digits("test"), digits("train")
    return Experiment(
        name="pupil",
        num_steps=800,
        data=data.Mixture.of(digits("train", augment=True), batch_size=64),
        model=MultimodalModel(
            encoders={
                "audio": encoders.SpectrogramTransformer(
                    mel=encoders.LogMel(sample_rate_hz=8000, num_mels=40),
                    stem=encoders.FramePatches(frames=4),
                    trunk=trunk(),
                    augment=encoders.SpecAugment(num_time_masks=1, num_mel_masks=1, max_mask_mels=6),
                ),
                "image": encoders.ViT(stem=encoders.LinearPatches(patch=(7, 7)), trunk=trunk()),
            },
            fusion=fusion.Late(),
            heads={
                "heard": heads.Classes("audio", num_classes=10, pooling="mean", after="encoder"),
                "seen": heads.Classes("image", num_classes=10, pooling="mean", after="encoder"),
            },
        ),
        objectives={
            "heard": objectives.Classification("heard", streams=("audio",)),
            "seen": objectives.Distillation("seen", teacher="heard", streams=("image", "audio")),
        },
        optimizer=training.AdamW(
            peak_learning_rate=2e-3, schedule=training.Schedule(warmup_steps=80), weight_decay=0.05
        ),
        evals={
            stream: evals.Classification(data=test, head=head, streams=(stream,), train=train)
            for stream, head in (("audio", "heard"), ("image", "seen"))
        },
        save_every=400,
    )
