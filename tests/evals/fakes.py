"""Tiny data in memory with every modality, and a predictor of random embeddings."""

import dataclasses
import zlib

import numpy as np

from mmjax import data

NAMES = ("red fox", "blue whale", "green frog", "red fox", "black cat", "white owl", "grey wolf")
RATE_HZ = 8000


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSource:
    """A source of records in memory, which is its own reader."""

    records: tuple[dict, ...]

    def open(self):
        return self

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]


@dataclasses.dataclass(frozen=True)
class TwoTokensPerWord(data.TokenizerSpec, data.Vocabulary):
    """A tokenizer, its spec and its vocabulary in one: word n is the tokens 5 + 2 n and 6 + 2 n.

    A word that it lacks is [UNK]; commas are words of their own, as in WordPiece.
    """

    words: tuple[str, ...]
    special_ids = {"pad": data.PAD_ID, "unk": data.UNK_ID, "cls": data.CLS_ID, "sep": data.SEP_ID,
                   "mask": data.MASK_ID}  # fmt: skip

    @property
    def vocab_size(self):
        return 5 + 2 * len(self.words)

    size = vocab_size

    def open(self):
        return self

    def digest(self):
        return " ".join(self.words)

    def encode(self, text):
        ids, numbers = [], []
        for number, word in enumerate(text.lower().replace(",", " , ").split()):
            first = 5 + 2 * self.words.index(word) if word in self.words else None
            ids += [data.UNK_ID] if first is None else [first, first + 1]
            numbers += [number] * (1 if first is None else 2)
        return ids, numbers

    def decode(self, ids):
        tokens = [token for token in ids if token == data.UNK_ID or (token >= 5 and token % 2)]
        return " ".join("[UNK]" if token == data.UNK_ID else self.words[(token - 5) // 2] for token in tokens)


def dataset(
    names: tuple[str, ...] = NAMES,
    *,
    missing: tuple[tuple[int, str], ...] = (),
    seed: int = 0,
    length: int = 8,
) -> data.Dataset:
    """One example per name with text, image, audio and label, but without the `missing` (example, stream).

    Every example has its own image of noise and its own tone, whatever its name.
    """
    rng = np.random.default_rng(seed)
    records = []
    for n, name in enumerate(names):
        tone = np.sin(2 * np.pi * (300 + 150 * n + 7 * seed) * np.arange(1600) / RATE_HZ)
        record = {
            "__key__": f"example{n}",
            "text": name,
            "image": rng.integers(0, 255, (8, 8, 3), dtype=np.uint8),
            "audio": (0.5 * tone).astype(np.float32),
            "label": n % 3,
        }
        for stream in (stream for example, stream in missing if example == n):
            del record[stream]
        records.append(record)
    words = tuple(sorted({word for name in names for word in name.split()} | {"zero", "one", "two"}))
    return data.Dataset(
        RecordSource(tuple(records)),
        {
            "text": data.TextTransform("text", TwoTokensPerWord(words), length=length, optional=True),
            "image": data.ImageTransform("image", (8, 8), optional=True),
            "audio": data.AudioTransform("audio", RATE_HZ, 0.25, optional=True),
            "label": data.LabelTransform("label", ("zero", "one", "two"), optional=True),
        },
    )


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows scaled to unit length, as by an embedding head."""
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class RandomEmbedder:
    """A predictor of embeddings: a fixed random function of each row's raw input."""

    width = 16

    def __call__(self, batch, view, heads, seed=0):
        return {head: self.embed(batch[head]) for head in heads}, {}

    def embed(self, stream):
        values = next(
            v for v in (getattr(stream, n, None) for n in ("tokens", "pixels", "samples")) if v is not None
        )
        digests = [zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in np.asarray(values)]
        return unit(np.stack([np.random.default_rng(digest).normal(size=self.width) for digest in digests]))
