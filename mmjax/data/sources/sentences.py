"""Consecutive sentences of documents, for next-sentence prediction."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.data.records import BadExample, Record, lookup
from mmjax.data.sources.base import Reader, Source, threadsafe_cache
from mmjax.errors import InputError
from mmjax.spec import Spec


@dataclasses.dataclass(frozen=True)
class ConsecutiveSentences(Spec, Source):
    """Each pair of consecutive sentences of a document is a record, in order.

    Opening reads every document once, to count its sentences.

    source: the documents.
    sentences: path to a document's list of sentences.
    text: path to the text within a sentence; empty if the sentences are strings.
    first, second: the fields of the new records.
    """

    source: Source
    sentences: str = "sentences"
    text: str = "text"
    first: str = "first"
    second: str = "second"

    def open(self) -> Reader:
        return _open(self, self.source.open())


@threadsafe_cache
def _open(source: ConsecutiveSentences, documents: Reader) -> Reader:
    return _Pairs(source, documents)


class _Pairs:
    def __init__(self, source: ConsecutiveSentences, documents: Reader):
        self._source, self._documents = source, documents
        counts = np.fromiter(
            (self._count(index) for index in range(len(documents))), np.int64, len(documents)
        )
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        if not self._starts[-1]:
            raise InputError(
                f"expected documents of two or more sentences in {source.sentences!r}, found none"
            )

    def _count(self, index: int) -> int:
        try:
            return max(0, len(self._sentences(self._documents[index])) - 1)
        except BadExample:
            return 1  # reading this pair raises the same error, which is then counted and logged

    def _sentences(self, document: Record) -> list[Any]:
        sentences = lookup(document, self._source.sentences)
        if not isinstance(sentences, list):
            found = type(sentences).__name__
            raise BadExample(
                document["__key__"], f"expected a list in {self._source.sentences!r}, found a {found}"
            )
        return sentences

    def __len__(self) -> int:
        return int(self._starts[-1])

    def identity(self) -> dict[str, Any]:
        return {"documents": self._documents.identity(), "records": len(self)}

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        document_index = int(np.searchsorted(self._starts, index, side="right")) - 1
        document = self._documents[document_index]
        start = index - int(self._starts[document_index])
        key = f"{document['__key__']}#{start}"
        first, second = (
            self._text(key, sentence) for sentence in self._sentences(document)[start : start + 2]
        )
        return {"__key__": key, self._source.first: first, self._source.second: second}

    def _text(self, key: str, sentence: Any) -> Any:
        return lookup(
            {"__key__": key, "sentence": sentence},
            f"sentence.{self._source.text}" if self._source.text else "sentence",
        )
