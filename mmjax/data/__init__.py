"""Sources -> transforms -> mixture -> batches, in NumPy and Grain, independent of any model."""

from mmjax.data import augment
from mmjax.data.audio import AudioTransform
from mmjax.data.boxes import BoxesTransform
from mmjax.data.collate import collate
from mmjax.data.dataset import Dataset, Examples, with_path
from mmjax.data.image import ImageTransform
from mmjax.data.labels import LabelTransform
from mmjax.data.loader import BadExampleCounter, BadExamples, batches, epoch
from mmjax.data.local import LocalData, local
from mmjax.data.mixture import Mixture
from mmjax.data.multi_labels import MultiLabelTransform
from mmjax.data.patches import PatchesTransform
from mmjax.data.presence import Presence, may_have_together, refuse_absent_streams, sample_presence
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
from mmjax.data.tags import TagTransform
from mmjax.data.text import TextTransform
from mmjax.data.tokenizer_files import Pretrained, SavedTokenizer
from mmjax.data.transform import Transform
from mmjax.data.video import VideoTransform
from mmjax.data.vocabulary import (
    CLS_ID,
    MASK_ID,
    PAD_ID,
    SEP_ID,
    UNK_ID,
    TokenizerSpec,
    Vocabulary,
)
from mmjax.data.word_piece import WordPiece

__all__ = [
    "ArrayRecord", "Arrays", "AudioTransform", "BadExample", "BadExampleCounter", "BadExamples",
    "BoxesTransform", "CLS_ID", "ConsecutiveSentences", "Dataset", "Examples", "ImageTransform", "Jsonl",
    "LabelTransform", "LocalData", "MASK_ID", "MissingField", "Mixture", "MultiLabelTransform", "Npz",
    "PAD_ID", "PatchesTransform", "Presence", "Pretrained", "Reader", "Record", "SEP_ID", "SavedTokenizer",
    "Source", "TagTransform", "TextTransform", "Tfds", "TokenizerSpec", "Transform", "UNK_ID",
    "VideoTransform", "Vocabulary", "WebDataset", "WordPiece", "augment", "batches", "collate", "epoch",
    "local", "lookup", "may_have_together", "pack", "refuse_absent_streams", "sample_presence", "with_path",
]  # fmt: skip
