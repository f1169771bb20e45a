"""Speech recognition with one encoder and two decoders: CTC on frames, and an autoregressive decoder.

    mmjax train experiments/read_speech.py

Data: `grid_s1` under $MMJAX_DATA (one talker of the GRID corpus: speech and sentence).

Measured on the 89 test sentences of six words (seed 0 / seed 1; CPU, 2026-11-22, library 202ba3e). A run
takes 2:43 minutes of one core, compilation and evaluation included. Nothing was tuned.

| word error rate         | model       | nearest training recording | most common sentence |
|-------------------------|-------------|----------------------------|----------------------|
| CTC                     | .167 / .212 | .581                       | .813                 |
| decoder                 | .129 / .232 | .581                       | .813                 |
| decoder, without speech | .860 / .801 |                            |                      |

Entirely correct sentences: .247 / .124 with CTC, .449 / .146 with the decoder. Neither has converged:
`lips.py` predicts .966 of the same words, all masked at once, after four times as many examples and with the
positions of the words given.
"""

from mmjax import data, encoders, evals, fusion, heads, objectives, training
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

DATA = data.local("grid_s1")
WIDTH = 64
VOCAB = 115  # 51 words and their letters


def clips(split: str, *, augment: bool = False) -> data.Dataset:
    """Three seconds of speech and a sentence of six words."""
    source = data.WebDataset(DATA.path("train.tar"), hint=DATA.hint)
    return data.Dataset(
        source=data.WebDataset(DATA.path(f"{split}.tar"), hint=DATA.hint),
        streams={
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


def trunk(depth: int, causal: bool = False) -> Transformer:
    return Transformer.of(depth, WIDTH, num_heads=4, dropout=0.1, causal=causal, scan=False)


def experiment() -> Experiment:
    test, train = clips("test"), clips("train")
    return Experiment(
        name="read_speech",
        num_steps=800,
        data=data.Mixture.of(clips("train", augment=True), batch_size=32),
        model=MultimodalModel(
            encoders={
                "audio": encoders.SpectrogramTransformer(
                    mel=encoders.LogMel(sample_rate_hz=16_000, num_mels=40),
                    stem=encoders.ConvFrames(depth=2, kernel_size=5, stride=2),
                    augment=encoders.SpecAugment(num_time_masks=1, max_mask_frames=8),
                    trunk=trunk(2),
                ),
                "text": encoders.TextTransformer(vocab=VOCAB, max_length=8, trunk=trunk(1, causal=True)),
            },
            # The decoder: each word attends to the speech and to the words before it.
            fusion=fusion.CoAttention(
                streams=("text", "audio"),
                updated_streams=("text",),
                causal_streams=("text",),
                depth=2,
                width=WIDTH,
                num_heads=4,
                mlp_width=4 * WIDTH,
                dropout=0.1,
            ),
            heads={
                "frames": heads.FrameLogits("audio", vocab=VOCAB),
                "words": heads.TokenLogits("text"),
            },
        ),
        objectives={
            "frames": objectives.CTC("frames"),
            "words": objectives.CausalLanguage("words"),
        },
        optimizer=training.AdamW(
            peak_learning_rate=2e-3, schedule=training.Schedule(warmup_steps=100), weight_decay=0.05
        ),
        evals={
            "by_frames": evals.Transcripts(data=test, head="frames", train=train),
            "by_decoder": evals.Captions(data=test, head="words", context=("audio",), subsets=True),
        },
        save_every=400,
    )
