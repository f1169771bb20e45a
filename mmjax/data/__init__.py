"""Sources -> transforms -> mixture -> batches: NumPy and Grain, never a model."""

from mmjax.data.audio import AudioTransform
from mmjax.data.boxes import BoxesTransform
from mmjax.data.collate import collate
from mmjax.data.dataset import Dataset, Examples, with_path
from mmjax.data.image import ImageTransform
from mmjax.data.labels import LabelTransform
from mmjax.data.loader import Bad, BadCounter, batches, epoch
from mmjax.data.mixture import Mixture
from mmjax.data.records import BadExample, MissingField, Record, lookup
from mmjax.data.sources import (
    ArrayRecord,
    Arrays,
    ConsecutiveSentences,
    Jsonl,
    Npz,
    Reader,
    Source,
    Tfds,
    WebDataset,
    pack,
)
from mmjax.data.text import TextTransform
from mmjax.data.transform import Transform
from mmjax.data.vocabulary import (
    CLS_ID,
    MASK_ID,
    PAD_ID,
    SEP_ID,
    UNK_ID,
    Pretrained,
    TokenizerSpec,
    Vocabulary,
    WordPiece,
)

__all__ = [
    "CLS_ID",
    "MASK_ID",
    "PAD_ID",
    "SEP_ID",
    "UNK_ID",
    "ArrayRecord",
    "Arrays",
    "AudioTransform",
    "Bad",
    "BadCounter",
    "BadExample",
    "BoxesTransform",
    "ConsecutiveSentences",
    "Dataset",
    "Examples",
    "ImageTransform",
    "Jsonl",
    "LabelTransform",
    "MissingField",
    "Mixture",
    "Npz",
    "Pretrained",
    "Reader",
    "Record",
    "Source",
    "TextTransform",
    "Tfds",
    "TokenizerSpec",
    "Transform",
    "Vocabulary",
    "WebDataset",
    "WordPiece",
    "batches",
    "collate",
    "epoch",
    "lookup",
    "pack",
    "with_path",
]
