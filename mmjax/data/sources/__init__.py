"""Sources of records: frozen values whose `open()` returns a random-access reader."""

from mmjax.data.sources.array_record import ArrayRecord, pack
from mmjax.data.sources.arrays import Arrays, Npz
from mmjax.data.sources.base import Reader, Source
from mmjax.data.sources.jsonl import Jsonl
from mmjax.data.sources.sentences import ConsecutiveSentences
from mmjax.data.sources.tfds import Tfds
from mmjax.data.sources.webdataset import WebDataset

__all__ = [
    "ArrayRecord", "Arrays", "ConsecutiveSentences", "Jsonl", "Npz", "Reader", "Source", "Tfds", "WebDataset",
    "pack",
]  # fmt: skip
