"""Adjacent sentences of documents, for next-sentence prediction."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.data.records import BadExample, Record, lookup
from mmjax.data.sources.paths import Reader, Source, threadsafe_cache
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ConsecutiveSentences:
    """A record for each pair of neighbouring sentences of a document, in order.

    Args:
        source: documents.
        sentences: path to the document's list of sentences.
        text: the text within a sentence; ``""`` when the sentences are plain texts.
        first, second: the fields of the new records.
    """

    source: Source
    sentences: str = "sentences"
    text: str = "text"
    first: str = "first"
    second: str = "second"

    def open(self) -> Reader:
        """Read every document once to count its sentences. Raises InputError when no document has two."""
        return _open(self, self.source.open())


@threadsafe_cache
def _open(spec: ConsecutiveSentences, documents: Reader) -> Reader:
    return _Pairs(spec, documents)


class _Pairs:
    def __init__(self, spec: ConsecutiveSentences, documents: Reader):
        self._spec, self._documents = spec, documents
        counts = np.fromiter(
            (self._count(index) for index in range(len(documents))), np.int64, len(documents)
        )
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        if not self._starts[-1]:
            raise InputError(f"expected documents of two or more sentences in {spec.sentences!r}, found none")

    def _count(self, index: int) -> int:
        try:
            return max(0, len(self._sentences(self._documents[index])) - 1)
        except BadExample:
            return 1  # a pair that raises the same when it is read: the document will be counted and logged

    def _sentences(self, document: Record) -> list[Any]:
        sentences = lookup(document, self._spec.sentences)
        if not isinstance(sentences, list):
            found = type(sentences).__name__
            raise BadExample(
                document["__key__"], f"expected a list in {self._spec.sentences!r}, found a {found}"
            )
        return sentences

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        document = self._documents[number]
        place = index - int(self._starts[number])
        key = f"{document['__key__']}#{place}"
        pair = [self._text(key, sentence) for sentence in self._sentences(document)[place : place + 2]]
        return {"__key__": key, self._spec.first: pair[0], self._spec.second: pair[1]}

    def _text(self, key: str, sentence: Any) -> Any:
        return lookup(
            {"__key__": key, "sentence": sentence},
            f"sentence.{self._spec.text}" if self._spec.text else "sentence",
        )
