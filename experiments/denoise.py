"""Three denoising objectives on one text encoder: masked spans, span corruption and prefix language model.

    mmjax train experiments/denoise.py

Data: `ud_ewt` under $MMJAX_DATA (Universal Dependencies English EWT, sentences of 540 web documents).

Objective `spans` masks spans in place (SpanBERT). `said` removes spans, which a decoder generates (T5).
`rest` continues a given prefix (UniLM).

Measured on the sentences of the 316 test documents (seeds 0 / 1; CPU, 2026-11-22, jax 0.10.2; 3:50 minutes
of one core). Nothing was tuned. The unigram model knows each token's frequency in the training data:

|                                |    model    | unigram |
|--------------------------------|-------------|---------|
| `spans`, cross-entropy         | 5.66 / 5.63 |  6.43   |
| `spans`, token accuracy        | .121 / .133 |  .037   |
| `rest`, cross-entropy          | 5.02 / 5.01 |  6.28   |
| `rest`, next-token accuracy    | .190 / .189 |  .059   |
| `said`, cross-entropy          | 2.95 / 2.97 |         |
| `said`, token accuracy         | .537 / .536 |         |

The last two rows include the sentinels and the end token, which are easy. 48,000 sentences are far too few to
learn to write.
"""

from mmjax import data, encoders, evals, fusion, heads, objectives, training, views
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

DATA = data.local("ud_ewt")
WIDTH = 64
VOCAB = 2000
LENGTH, TARGET_LENGTH = 32, 16  # tokens
NUM_SENTINELS = 8


def sentences(split: str) -> data.Dataset:
    """One sentence of a document."""
    tokenizer = data.WordPiece(
        data.ConsecutiveSentences(data.Jsonl(DATA.path("train.jsonl"), hint=DATA.hint)),
        fields=("first",),
        vocab_size=VOCAB,
    )
    return data.Dataset(
        source=data.ConsecutiveSentences(data.Jsonl(DATA.path(f"{split}.jsonl"), hint=DATA.hint)),
        streams={"text": data.TextTransform("first", tokenizer=tokenizer, length=LENGTH)},
        cache=True,
    )


def text_encoder(depth: int, length: int, causal: bool = False) -> encoders.TextTransformer:
    return encoders.TextTransformer(
        vocab=VOCAB + NUM_SENTINELS,
        max_length=length,
        trunk=Transformer.of(depth, WIDTH, num_heads=4, dropout=0.1, causal=causal, scan=False),
    )


def experiment() -> Experiment:
    corrupted = views.CorruptSpans(
        "text", vocab=VOCAB, target_length=TARGET_LENGTH, num_sentinels=NUM_SENTINELS
    )
    return Experiment(
        name="denoise",
        num_steps=1500,
        data=data.Mixture.of(sentences("train"), batch_size=32),
        model=MultimodalModel(
            encoders={"text": text_encoder(2, LENGTH), "target": text_encoder(1, TARGET_LENGTH, causal=True)},
            shared={"source": "text"},
            # The decoder: target tokens attend to the corrupted text and to earlier target tokens.
            fusion=fusion.CoAttention(
                streams=("source", "target"),
                updated_streams=("target",),
                causal_streams=("target",),
                depth=1,
                width=WIDTH,
                num_heads=4,
                mlp_width=4 * WIDTH,
                dropout=0.1,
            ),
            heads={
                "words": heads.TokenLogits("text", after="encoder"),
                "next": heads.TokenLogits("text", after="encoder"),
                "said": heads.TokenLogits("target"),
            },
        ),
        objectives={
            "spans": objectives.MaskedLanguage("words", view=views.MaskSpans("text", vocab=VOCAB)),
            "said": objectives.CausalLanguage("said", stream="target", view=corrupted),
            "rest": objectives.CausalLanguage("next", view=views.Prefix("text")),
        },
        optimizer=training.AdamW(
            peak_learning_rate=2e-3, schedule=training.Schedule(warmup_steps=150), weight_decay=0.05
        ),
        evals={"test": evals.Losses(data=sentences("test"))},
        save_every=500,
    )
