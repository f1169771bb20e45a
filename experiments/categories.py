"""Two supervised tasks at once: an emoji's category, and all the keywords that are said of it.

    mmjax train experiments/categories.py

Data in the repository: pictures of two drawing styles and names in writing, of 1,334 concepts. A small ResNet
reads the picture, a recurrent network (GRU, both ways) the name, a gated sum joins them; each task has its
own head. Pieces of pictures are exchanged (CutMix), and the labels of both tasks with them.

Measured on the 198 unseen concepts (seeds 0 / 1; CPU, 2026-11-22, jax 0.10.2; 3:10 minutes of one core).
Nothing was tuned:

|                                  |   picture   |    name     |    both     | guessing |
|----------------------------------|-------------|-------------|-------------|----------|
| category, accuracy               | .646 / .641 | .596 / .606 | .626 / .646 |   .157   |
| category, macro F1               | .562 / .559 | .511 / .527 | .547 / .573 |          |
| keywords, mean average precision | .375 / .323 | .567 / .540 | .590 / .547 |   .040   |

The intervals of the accuracies are +-.065: none is ahead. Keywords are often words of the name, which tells
more than the picture; the picture adds .02 and .01 to it there, and nothing to the category.
"""

from pathlib import Path

from mmjax import data, encoders, evals, fusion, heads, objectives, training, views
from mmjax.experiment import Experiment
from mmjax.layers import Recurrent
from mmjax.model import MultimodalModel

FOLDER = Path(__file__).parent / "data" / "emoji_speech"
CATEGORIES = (
    "Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body",
    "Smileys & Emotion", "Symbols", "Travel & Places",
)  # fmt: skip
# The most common keywords of the training data.
KEYWORDS = (
    "flag", "face", "man", "woman", "animal", "person", "button", "hand", "food", "heart", "arrow", "love",
    "sport", "fantasy", "child", "clock", "family", "Japanese", "time", "ball",
)  # fmt: skip
WIDTH = 64
VOCAB = 115  # characters, at the start of a word and within it


def emoji(split: str, *, pictures: str | tuple[str, ...] = "noto.png", augment: bool = False) -> data.Dataset:
    """A picture, the written name, the category, the keywords."""
    words = data.WordPiece(
        data.WebDataset(str(FOLDER / "train.tar")), fields=("json.name", "json.keywords"), vocab_size=VOCAB
    )
    return data.Dataset(
        source=data.WebDataset(str(FOLDER / f"{split}.tar")),
        streams={
            "image": data.ImageTransform(pictures, size=(32, 32), crop_scale=(0.5, 1.0) if augment else None),
            "text": data.TextTransform("json.name", tokenizer=words, length=24),
            "category": data.LabelTransform("json.category", CATEGORIES),
            "keywords": data.MultiLabelTransform("json.keywords", KEYWORDS, skip_unknown=True),
        },
        cache=True,
    )


def experiment() -> Experiment:
    seen = ("image", "text")
    # Either may be missing; a picture that is cut says two things, and so the name is left out.
    either = views.DropStreams((("image", 0.3), ("text", 0.3)), keep_one=True)
    cut = views.Chain((views.CutMix("image"), views.DropStreams((("text", 1.0),))))
    test, known = emoji("test"), emoji("train")
    return Experiment(
        name="categories",
        num_steps=600,
        data=data.Mixture.of(
            emoji("train", pictures=("noto.png", "twemoji.png"), augment=True), batch_size=64
        ),
        model=MultimodalModel(
            encoders={
                "image": encoders.ResNet(stages=(1, 1, 1), width=16, stem="small", num_groups=8),
                "text": encoders.RecurrentText(
                    vocab=VOCAB, trunk=Recurrent(depth=1, width=WIDTH, cell="gru", dropout=0.1)
                ),
            },
            fusion=fusion.GatedSum(streams=seen, width=WIDTH, mlp_width=2 * WIDTH),
            heads={
                "category": heads.Classes("fused", num_classes=len(CATEGORIES), pooling="mean"),
                "keywords": heads.Classes("fused", num_classes=len(KEYWORDS), pooling="mean"),
            },
        ),
        objectives={
            "category": objectives.Classification(
                "category", labels="category", streams=seen, label_smoothing=0.1, view=either
            ),
            "keywords": objectives.MultiLabel("keywords", labels="keywords", streams=seen, view=either),
            "category_cut": objectives.Classification(
                "category", labels="category", streams=("image",), weight=0.5, view=cut
            ),
            "keywords_cut": objectives.MultiLabel(
                "keywords", labels="keywords", streams=("image",), weight=0.5, view=cut
            ),
        },
        optimizer=training.AdamW(
            peak_learning_rate=2e-3, schedule=training.Schedule(warmup_steps=60), weight_decay=0.05
        ),
        evals={
            "category": evals.Classification(
                data=test, head="category", labels="category", streams=seen, subsets=True, train=known
            ),
            "keywords": evals.MultiLabel(
                data=test, head="keywords", labels="keywords", streams=seen, subsets=True
            ),
        },
        save_every=300,
    )
