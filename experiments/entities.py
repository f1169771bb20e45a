"""Named-entity recognition on web text: a tag for each word.

    mmjax train experiments/entities.py

Data: `wnut17` under $MMJAX_DATA (WNUT 2017, emerging and rare entities: most names in the test set are new).

Measured (seed 0 / seed 1; CPU, 2026-11-22, library d576cac with this file). The model's size was chosen on
val. A run takes 1:10 minutes of one core.

|                 | model       | each word's most common tag | always O |
|-----------------|-------------|-----------------------------|----------|
| val entity F1   | .099 / .084 | .093                        | .000     |
| val accuracy    | .915 / .919 | .922                        | .921     |
| test entity F1  | .060 / .038 | .061                        | .000     |
| test accuracy   | .920 / .922 | .926                        | .926     |

Trained from scratch on 3,394 sentences, the model is no better than a list of names. With hashed n-grams,
4,000 word pieces and an additional masked-span objective, it memorises the sentences (F1 .040 on val, .029 on
test).
"""

from mmjax import data, encoders, evals, fusion, heads, objectives, training
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

DATA = data.local("wnut17")
KINDS = ("corporation", "creative-work", "group", "location", "person", "product")
TAGS = ("O", *(f"{place}-{kind}" for kind in KINDS for place in "BI"))
WIDTH = 64
VOCAB = 1500
LENGTH = 80  # truncates some training sentences
EVAL_LENGTH = 256  # truncates 2 of the 23,394 test words


def sentences(split: str, length: int = LENGTH) -> data.Dataset:
    """Sentences as the corpus splits them into words, and their tags."""
    source = data.Jsonl(DATA.path("train.jsonl"), hint=DATA.hint)
    words = data.TextTransform(
        "tokens",
        # Cased: capitals mark names.
        tokenizer=data.WordPiece(source, fields=("tokens",), vocab_size=VOCAB, lowercase=False),
        length=length,
        pretokenized=True,
    )
    return data.Dataset(
        source=data.Jsonl(DATA.path(f"{split}.jsonl"), hint=DATA.hint),
        streams={"text": words, "tags": data.TagTransform("tags", text=words, classes=TAGS)},
        cache=True,
    )


def experiment() -> Experiment:
    train, val, test = sentences("train"), sentences("val", EVAL_LENGTH), sentences("test", EVAL_LENGTH)
    return Experiment(
        name="entities",
        num_steps=500,
        data=data.Mixture.of(train, batch_size=32),
        model=MultimodalModel(
            encoders={
                "text": encoders.TextTransformer(
                    vocab=VOCAB,
                    max_length=EVAL_LENGTH,
                    position_init_std=0.02,  # positions beyond LENGTH are not trained and stay near 0
                    trunk=Transformer.of(2, WIDTH, num_heads=4, dropout=0.3, scan=False),
                )
            },
            fusion=fusion.Late(),
            heads={"tags": heads.PositionClasses("text", num_classes=len(TAGS))},
        ),
        objectives={"tags": objectives.TokenClassification("tags")},
        optimizer=training.AdamW(
            peak_learning_rate=2e-3, schedule=training.Schedule(warmup_steps=100), weight_decay=0.1
        ),
        evals={
            "val": evals.Tags(data=val, head="tags", train=train),
            "test": evals.Tags(data=test, head="tags", train=train),
        },
        save_every=500,
    )
