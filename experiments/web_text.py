"""BERT's two objectives, masked words and next sentence, on web documents.

    mmjax train experiments/web_text.py

Data: `ud_ewt` under $MMJAX_DATA (Universal Dependencies English EWT, 540 documents, 12,544 sentences).

Measured on the test documents (seed 0 / seed 1; CPU, 2026-11-22, library ~79de202):

| accuracy                       | model       | baseline      |
|--------------------------------|-------------|---------------|
| next sentence                  | .515 / .528 | majority .501 |
| masked tokens, single sentence | .093 / .092 | unigram .046  |
| masked words, single sentence  | .118 / .116 | unigram .059  |

Trained on 200,000 words, a small model learns which words are frequent, and next to nothing about which
sentence follows.
"""

from mmjax import data, encoders, evals, fusion, heads, objectives, training, views
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

DATA = data.local("ud_ewt")
WIDTH = 128
VOCAB = 4000
LENGTH = 32


def sentences(split: str) -> data.ConsecutiveSentences:
    return data.ConsecutiveSentences(data.Jsonl(DATA.path(f"{split}.jsonl"), hint=DATA.hint))


def words(field: str) -> data.TextTransform:
    tokenizer = data.WordPiece(sentences("train"), fields=("first",), vocab_size=VOCAB)
    return data.TextTransform(field, tokenizer=tokenizer, length=LENGTH)


def pairs(split: str) -> data.Dataset:
    """Pairs of consecutive sentences of a document."""
    return data.Dataset(sentences(split), {"first": words("first"), "second": words("second")}, cache=True)


def single_sentences(split: str) -> data.Dataset:
    """One sentence as the stream "pair"."""
    return data.Dataset(sentences(split), {"pair": words("first")}, cache=True)


def experiment() -> Experiment:
    # Both objectives use the same view, so that the pair is encoded once.
    pair = views.SentencePairs("first", "second")
    masked_pair = views.Chain((pair, views.MaskTokens("pair", vocab=VOCAB)))
    test = pairs("test")
    return Experiment(
        name="web_text",
        num_steps=1500,
        data=data.Mixture.of(pairs("train"), batch_size=32),
        model=MultimodalModel(
            encoders={
                "pair": encoders.TextTransformer(
                    vocab=VOCAB,
                    max_length=2 * LENGTH,
                    trunk=Transformer.of(2, WIDTH, num_heads=4, dropout=0.1, scan=False),
                )
            },
            shared={"first": "pair", "second": "pair"},
            fusion=fusion.Late(),
            heads={
                "words": heads.TokenLogits("pair", after="encoder"),
                "follows": heads.Classes("pair", num_classes=2, after="encoder"),
            },
        ),
        objectives={
            "masked_words": objectives.MaskedLanguage("words", view=masked_pair),
            "next_sentence": objectives.NextSentence("follows", view=masked_pair),
        },
        optimizer=training.AdamW(
            peak_learning_rate=1e-3, schedule=training.Schedule(warmup_steps=200), weight_decay=0.05
        ),
        evals={
            "next_sentence": evals.NextSentence(data=test, view=pair),
            # Single sentences, so that the neighbouring sentence does not help.
            "masked_words": evals.MaskedWords(
                data=single_sentences("test"), stream="pair", train=single_sentences("train")
            ),
        },
        save_every=500,
    )
