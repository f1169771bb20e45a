"""Tags of words, and the entities that B-x, I-x and O tags form.

accuracy                        fraction of words with the right tag
entity_f1, entity_precision, entity_recall
                                an entity is right if its first word, last word and kind are; only if the
                                classes are B-x, I-x and O
lookup/accuracy, /entity_f1     each word's most common training tag; for unknown words, the most common tag
majority/accuracy               always the most common training tag
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from mmjax import data
from mmjax.batch import Batch, Text
from mmjax.batch import Tags as TagsStream
from mmjax.errors import InputError
from mmjax.evals.base import HeadEval, Predictor, Result, check_finite, has_streams
from mmjax.evals.baseline import most_common
from mmjax.views import Identity

TokenIds = tuple[int, ...]  # of one word


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tags(HeadEval):
    """The most likely tag of a PositionClasses head at each word's first token.

    Words beyond the text's length are not counted: choose a length that no text exceeds.

    train: training data for the baselines; None: no baselines.
    """

    text: str = "text"
    stream: str = "tags"
    train: data.Dataset | None = None
    train_limit: int | None = 20_000

    def __post_init__(self):
        self.check_streams(self.text, self.stream)

    def __call__(self, predictor: Predictor) -> Result:
        names = self.data.streams[self.stream].classes
        predicted, targets, words = [], [], []
        for batch in self.batches():
            outputs, _ = predictor(batch, Identity(), (self.head,))
            logits = np.where(has_streams(batch, self.stream)[:, None, None], outputs[self.head], 0)
            classes = check_finite(self.head, logits).argmax(axis=-1)
            for row, sentence in tagged_sentences(batch, self.text, self.stream):
                predicted.append([names[classes[row, word.position]] for word in sentence])
                targets.append([names[word.tag] for word in sentence])
                words.append([word.tokens for word in sentence])
        if not targets:
            raise InputError(f"tags: no example of the data has {self.text!r} and {self.stream!r}")
        metrics = tag_metrics(predicted, targets)
        if self.train is not None:
            batches = data.epoch(self.train, self.batch_size, self.train_limit)
            lookup = TagLookup.fit(batches, self.text, self.stream)
            looked_up = [[names[lookup.tag(word)] for word in sentence] for sentence in words]
            lookup_metrics = tag_metrics(looked_up, targets)
            metrics |= {f"lookup/{name}": value for name, value in lookup_metrics.items()}
            majority = [[names[lookup.default]] * len(sentence) for sentence in words]
            metrics["majority/accuracy"] = tag_metrics(majority, targets)["accuracy"]
        return Result(metrics | {"num_words": float(sum(map(len, targets)))})


@dataclasses.dataclass(frozen=True)
class TaggedWord:
    """A word of a text with its tag. `position` is that of the word's first token."""

    position: int
    tag: int
    tokens: TokenIds


def tagged_sentences(batch: Batch, text: str, stream: str) -> Iterator[tuple[int, list[TaggedWord]]]:
    """Yields (row, its words) for each row that has tags."""
    tags: TagsStream = batch[stream]  # type: ignore[assignment]  # streams are named by the user
    texts: Text = batch[text]  # type: ignore[assignment]
    values, is_first = np.asarray(tags.values), np.asarray(tags.mask)
    tokens, numbers = np.asarray(texts.tokens), np.asarray(texts.words)
    for row in np.flatnonzero(is_first.any(axis=1)).tolist():
        words: dict[int, TokenIds] = {}
        for number, token in zip(numbers[row].tolist(), tokens[row].tolist(), strict=True):
            words[number] = (*words.get(number, ()), token)
        positions = np.flatnonzero(is_first[row]).tolist()
        yield row, [TaggedWord(p, int(values[row, p]), words[int(numbers[row, p])]) for p in positions]


def tag_metrics(predicted: list[list[str]], targets: list[list[str]]) -> dict[str, float]:
    """Accuracy of tags, and precision, recall and F1 of entities, over all sentences together."""
    pairs = [zip(*sentence, strict=True) for sentence in zip(predicted, targets, strict=True)]
    metrics = {"accuracy": float(np.mean([tag == target for pair in pairs for tag, target in pair]))}
    if not all(tag == "O" or tag[:2] in ("B-", "I-") for sentence in targets for tag in sentence):
        return metrics
    detected, true = ({(n, *entity) for n, tags in enumerate(each) for entity in extract_entities(tags)}
                      for each in (predicted, targets))  # fmt: skip
    hits = len(detected & true)
    precision, recall = hits / max(len(detected), 1), hits / max(len(true), 1)
    f1 = 2 * hits / max(len(detected) + len(true), 1)
    return metrics | {"entity_f1": f1, "entity_precision": precision, "entity_recall": recall}


def extract_entities(tags: list[str]) -> list[tuple[str, int, int]]:
    """(kind, first word, one past the last word) of each entity.

    An I-x that follows neither B-x nor I-x begins an entity, as in the scorer of CoNLL-2000 (Tjong Kim Sang &
    Buchholz 2000).
    """
    entities: list[tuple[str, int, int]] = []
    kind, start = "", 0
    for n, tag in enumerate([*tags, "O"]):
        tag_kind = tag[2:]
        if kind and (tag_kind != kind or tag.startswith("B-")):
            entities.append((kind, start, n))
            kind = ""
        if tag_kind and not kind:
            kind, start = tag_kind, n
    return entities


@dataclasses.dataclass(frozen=True)
class TagLookup:
    """Each word's most common tag in the training data; `default` is the most common tag of all words."""

    tags: dict[TokenIds, int]
    default: int

    @classmethod
    def fit(cls, batches: Iterable[Batch], text: str, stream: str) -> "TagLookup":
        """From batches of training data."""
        by_word: dict[TokenIds, collections.Counter[int]] = collections.defaultdict(collections.Counter)
        total: collections.Counter[int] = collections.Counter()
        for batch in batches:
            for _, sentence in tagged_sentences(batch, text, stream):
                for word in sentence:
                    by_word[word.tokens][word.tag] += 1
                    total[word.tag] += 1
        if not total:
            raise InputError(f"lookup baseline: the data have no tags in {stream!r}: give another `train`")
        return cls({word: most_common(tags) for word, tags in by_word.items()}, most_common(total))

    def tag(self, word: TokenIds) -> int:
        """The word's tag, or the most common one if the word is unknown."""
        return self.tags.get(word, self.default)
