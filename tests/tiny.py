"""A whole experiment that runs in seconds: eight pictures with captions, and the file that trains on them."""

from pathlib import Path

import numpy as np

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}
SOURCE = '''
"""Pictures of one colour and their captions."""

from mmjax import data, encoders, evals, fusion, heads, objectives, train
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

WIDTH = 16


def trunk(depth: int = 1) -> Transformer:
    return Transformer(depth=depth, width=WIDTH, num_heads=2, mlp_width=2 * WIDTH)


def dataset() -> data.Dataset:
    source = data.Npz({path!r})
    words = data.WordPiece(source, fields=("text",), vocab_size={vocab})
    return data.Dataset(
        source,
        streams={{
            "image": data.ImageTransform("image", size=(8, 8)),
            "text": data.TextTransform("text", words, length=6),
        }},
    )


def experiment() -> Experiment:
    return Experiment(
        name="tiny",
        num_steps=4,
        data=data.Mixture({{"colours": (1.0, dataset())}}, batch_size=8),
        model=MultimodalModel(
            encoders={{
                "image": encoders.ViT(stem=encoders.LinearPatches(patch=(4, 4)), trunk=trunk()),
                "text": encoders.TextTransformer(vocab={vocab}, max_length=6, trunk=trunk(depth=2)),
            }},
            fusion=fusion.Late(),
            heads={{stream: heads.PooledEmbedding(stream, dim=8) for stream in ("image", "text")}},
        ),
        objectives={{"pairs": objectives.InfoNCE("image", "text")}},
        optimizer=train.AdamW(peak_learning_rate=1e-3),
        evals={{"retrieval": evals.Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)}},
        log_every=1,
        save_every=2,
    )
'''
VOCAB = 41


def write(folder: Path) -> Path:
    """Writes the data and the experiment's file to ``folder``; returns the file."""
    pictures = np.stack(
        [np.full((8, 8, 3), COLOURS[colour], np.uint8) for colour in COLOURS for _ in range(2)]
    )
    texts = np.array([f"{size} {colour} square" for colour in COLOURS for size in ("big", "small")])
    np.savez(folder / "colours.npz", image=pictures, text=texts)
    file = folder / "tiny.py"
    file.write_text(SOURCE.format(path=str(folder / "colours.npz"), vocab=VOCAB))
    return file
