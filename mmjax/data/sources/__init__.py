"""Where records are: each source is a frozen value whose ``open()`` gives random access."""

from mmjax.data.sources.array_record import ArrayRecord, pack
from mmjax.data.sources.arrays import Arrays, Npz
from mmjax.data.sources.jsonl import Jsonl
from mmjax.data.sources.paths import Reader, Source
from mmjax.data.sources.sentences import ConsecutiveSentences
from mmjax.data.sources.tfds import Tfds
from mmjax.data.sources.webdataset import WebDataset

__all__ = [
    "ArrayRecord",
    "Arrays",
    "ConsecutiveSentences",
    "Jsonl",
    "Npz",
    "Reader",
    "Source",
    "Tfds",
    "WebDataset",
    "pack",
]
