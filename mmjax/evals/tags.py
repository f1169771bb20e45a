"""Are words tagged right, and are the entities that the tags spell found whole?

accuracy                        words with the right tag
entity_f1, entity_precision, entity_recall
                                entities with exactly the right first word, last word and kind; only where the
                                classes are B-x, I-x and O
lookup/accuracy, /entity_f1     each word's most common training tag; of an unknown word, the most common tag
majority/accuracy               always the most common training tag
"""

import collections
import dataclasses

import numpy as np

from mmjax import data
from mmjax.batch import Batch
from mmjax.errors import InputError
from mmjax.evals.base import Eval, Predictor, Result, check_finite, has_streams
from mmjax.views import Identity

Word = tuple[int, ...]  # its tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tags(Eval):
    """The most likely tag of a PositionClasses head at each word's first token.

    Words beyond the text's length have no position, and do not count: choose a length that cuts none.
    """

    head: str
    text: str = "text"
    stream: str = "tags"
    train: data.Dataset | None = None  # for the baselines; None: none
    train_limit: int | None = 20_000

    def __post_init__(self):
        self.check_streams(self.text, self.stream)

    def required_heads(self) -> tuple[str, ...]:
        return (self.head,)

    def __call__(self, predictor: Predictor) -> Result:
        names = self.data.streams[self.stream].classes
        said, true, words = [], [], []
        for batch in self.batches():
            outputs, _ = predictor(batch, Identity(), (self.head,))
            tagged = sentences(batch, self.text, self.stream)
            numbers = np.where(has_streams(batch, self.stream)[:, None, None], outputs[self.head], 0)
            numbers = check_finite(self.head, numbers).argmax(axis=-1)
            for row, sentence in tagged:
                said.append([names[numbers[row, place]] for place, _, _ in sentence])
                true.append([names[tag] for _, tag, _ in sentence])
                words.append([word for _, _, word in sentence])
        if not true:
            raise InputError(f"tags: no example of the data has {self.text!r} and {self.stream!r}")
        metrics = scores(said, true)
        if self.train is not None:
            lookup = Lookup.of(
                data.epoch(self.train, self.batch_size, self.train_limit), self.text, self.stream
            )
            guesses = [[names[lookup.tag(word)] for word in sentence] for sentence in words]
            metrics |= {f"lookup/{name}": value for name, value in scores(guesses, true).items()}
            usual = [[names[lookup.usual]] * len(sentence) for sentence in words]
            metrics["majority/accuracy"] = scores(usual, true)["accuracy"]
        return Result(metrics | {"num_words": float(sum(map(len, true)))})


def sentences(batch: Batch, text: str, stream: str) -> list[tuple[int, list[tuple[int, int, Word]]]]:
    """(row, its words as (place of the first token, tag, tokens)) of each row that has tags."""
    made = []
    tags, texts = batch[stream], batch[text]
    values, firsts = np.asarray(tags.values), np.asarray(tags.mask)  # type: ignore[attr-defined]
    tokens, numbers = np.asarray(texts.tokens), np.asarray(texts.words)  # type: ignore[attr-defined]
    for row in np.flatnonzero(firsts.any(axis=1)).tolist():
        pieces: dict[int, Word] = {}
        for number, token in zip(numbers[row].tolist(), tokens[row].tolist(), strict=True):
            pieces[number] = (*pieces.get(number, ()), token)
        places = np.flatnonzero(firsts[row]).tolist()
        made.append((row, [(p, int(values[row, p]), pieces[int(numbers[row, p])]) for p in places]))
    return made


def scores(said: list[list[str]], true: list[list[str]]) -> dict[str, float]:
    """Accuracy of tags, and precision, recall and F1 of entities over all sentences together."""
    right = [one == other for pair in zip(said, true, strict=True) for one, other in zip(*pair, strict=True)]
    metrics = {"accuracy": float(np.mean(right))}
    if not all(tag == "O" or tag[:2] in ("B-", "I-") for sentence in true for tag in sentence):
        return metrics
    found, wanted = ({(n, *entity) for n, tags in enumerate(each) for entity in entities(tags)}
                     for each in (said, true))  # fmt: skip
    hits = len(found & wanted)
    precision, recall = hits / max(len(found), 1), hits / max(len(wanted), 1)
    f1 = 2 * hits / max(len(found) + len(wanted), 1)
    return metrics | {"entity_f1": f1, "entity_precision": precision, "entity_recall": recall}


def entities(tags: list[str]) -> list[tuple[str, int, int]]:
    """(kind, first word, one past the last) of each entity.

    An I-x that follows neither B-x nor I-x begins one, as the scorer of CoNLL-2000 has it (Tjong Kim Sang &
    Buchholz 2000).
    """
    made: list[tuple[str, int, int]] = []
    kind, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        here = tag[2:]
        if kind and (here != kind or tag.startswith("B-")):
            made.append((kind, start, place))
            kind = ""
        if here and not kind:
            kind, start = here, place
    return made


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Each word's most common tag in the training data."""

    tags: dict[Word, int]
    usual: int  # the most common tag of all

    @classmethod
    def of(cls, batches, text: str, stream: str) -> "Lookup":
        counts: dict[Word, collections.Counter] = collections.defaultdict(collections.Counter)
        every: collections.Counter = collections.Counter()
        for batch in batches:
            for _, sentence in sentences(batch, text, stream):
                for _, tag, word in sentence:
                    counts[word][tag] += 1
                    every[tag] += 1
        if not every:
            raise InputError(f"lookup baseline: the data have no tags in {stream!r}: give another `train`")
        return cls({word: _top(tags) for word, tags in counts.items()}, _top(every))

    def tag(self, word: Word) -> int:
        """Its tag, or that of most words."""
        return self.tags.get(word, self.usual)


def _top(counts: collections.Counter):
    """The most common; of equals the least, so that the order of the data decides nothing."""
    return min(counts, key=lambda value: (-counts[value], value))
