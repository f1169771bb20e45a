"""Tags of words, and the entities that B-x, I-x and O tags form.

accuracy                        fraction of words with the right tag
entity_f1, entity_precision, entity_recall
                                an entity is right if its first word, last word and kind are; over all
                                entities together (micro); only if the classes are B-x, I-x and O
entity_f1/x, ...                of the entities of kind x
entity_macro_f1                 mean over the kinds that occur in the truth or in the predictions
num_entities, num_entities/x    true entities
lookup/accuracy, /entity_f1     each word's most common training tag; for unknown words, the most common tag
majority/accuracy               always the most common training tag
num_words, num_untagged_words   all words of the records; those among them that the model does not see

Entities are counted as by the seqeval package in its strict mode for IOB2: an I-x that follows neither B-x
nor I-x is no entity, and a precision without any predicted entity is 0. Without any entity, true or
predicted, the metrics of entities are left out.
"""

import collections
import dataclasses

import numpy as np

from mmjax import data
from mmjax.batch import Text
from mmjax.data.records import lookup_words
from mmjax.errors import InputError
from mmjax.evals.base import HeadEval, Predictor, Result, check_finite, has_streams
from mmjax.evals.baseline import most_common
from mmjax.evals.once import once
from mmjax.ranges import Count
from mmjax.views import Identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tags(HeadEval):
    """The most likely tag of a PositionClasses head at each word's first token.

    Words and their tags are those of the record. A word beyond the text's length, or without any token, has
    no predicted tag: it counts as wrong, and as O for the entities.

    strict: whether an entity must begin with B-x. False: an I-x that follows neither B-x nor I-x begins one,
      as in the scorer of CoNLL-2000 (Tjong Kim Sang & Buchholz 2000), seqeval's default.
    train: training data for the baselines; None: no baselines.
    """

    text: str = "text"
    stream: str = "tags"
    strict: bool = True
    train: data.Dataset | None = None
    train_limit: Count | None = 20_000

    def __post_init__(self):
        self.check_streams(self.text, self.stream)

    def __call__(self, predictor: Predictor) -> Result:
        names = self.data.streams[self.stream].classes
        predicted, targets, words, num_untagged = [], [], [], 0
        for number, batch in enumerate(self.batches()):
            outputs, _ = predictor(batch, Identity(), (self.head,))
            rows = has_streams(batch, self.stream)
            logits = np.where(rows[:, None, None], outputs[self.head], 0)
            classes = check_finite(self.head, logits).argmax(axis=-1)
            for row in np.flatnonzero(rows).tolist():
                sentence, tags = record_tags(
                    self.data, self.text, self.stream, number * self.batch_size + row
                )
                positions = word_positions(batch[self.text], row)  # type: ignore[arg-type]
                found = {word: names[classes[row, position]] for word, position in positions.items()}
                predicted.append([found.get(word, "") for word in range(len(sentence))])
                num_untagged += sum(tag == "" for tag in predicted[-1])
                words.append(sentence)
                targets.append(tags)
        if not targets:
            raise InputError(f"tags: no example of the data has {self.text!r} and {self.stream!r}")
        metrics = self.scores(predicted, targets)
        if self.train is not None:
            train = self.train
            metrics |= once(self, "baselines", lambda: self._baselines(train, words, targets))
        num_words = sum(map(len, targets))
        return Result(metrics | {"num_words": float(num_words), "num_untagged_words": float(num_untagged)})

    def _baselines(
        self, train: data.Dataset, words: list[list[str]], targets: list[list[str]]
    ) -> dict[str, float]:
        """The metrics of each word's most common tag, and of the most common tag."""
        lookup = TagLookup.fit(train, self)
        looked_up = [[lookup.tag(word) for word in sentence] for sentence in words]
        metrics = {f"lookup/{name}": value for name, value in self.scores(looked_up, targets).items()}
        majority = [[lookup.default] * len(sentence) for sentence in words]
        return metrics | {"majority/accuracy": accuracy(majority, targets)}

    def scores(self, predicted: list[list[str]], targets: list[list[str]]) -> dict[str, float]:
        """Accuracy of tags and, if the classes are tags of entities, their metrics, over all sentences."""
        metrics = {"accuracy": accuracy(predicted, targets)}
        classes = self.data.streams[self.stream].classes
        if not all(tag == "O" or (tag[:2] in ("B-", "I-") and tag[2:]) for tag in classes):
            return metrics
        return metrics | entity_metrics(predicted, targets, strict=self.strict)


def record_tags(dataset: data.Dataset, text: str, stream: str, index: int) -> tuple[list[str], list[str]]:
    """The words of one record and their tags."""
    record, streams = dataset.source.open()[index], dataset.streams
    words = lookup_words(record, streams[text].field)
    return words, lookup_words(record, streams[stream].field)


def word_positions(text: Text, row: int) -> dict[int, int]:
    """{index of a word in the record: the position of its first token} of one row of a batch."""
    numbers = np.asarray(text.words)[row]
    words, positions = np.unique(numbers, return_index=True)
    return {
        word: position for word, position in zip(words.tolist(), positions.tolist(), strict=True) if word >= 0
    }


def accuracy(predicted: list[list[str]], targets: list[list[str]]) -> float:
    """Fraction of words with the right tag, over all sentences together."""
    pairs = [zip(*sentence, strict=True) for sentence in zip(predicted, targets, strict=True)]
    return float(np.mean([tag == target for pair in pairs for tag, target in pair]))


def entity_metrics(
    predicted: list[list[str]], targets: list[list[str]], strict: bool = True
) -> dict[str, float]:
    """Precision, recall and F1 of entities, over all sentences together; {} without any entity."""
    detected, true = (
        {(kind, sentence, start, end)
         for sentence, tags in enumerate(each) for kind, start, end in extract_entities(tags, strict)}
        for each in (predicted, targets)
    )  # fmt: skip
    kinds = sorted({kind for kind, *_ in detected | true})
    if not kinds:
        return {}
    metrics = _precision_recall_f1(detected, true)
    by_kind = {}
    for kind in kinds:
        of_kind = ({entity for entity in each if entity[0] == kind} for each in (detected, true))
        by_kind |= {f"{name}/{kind}": value for name, value in _precision_recall_f1(*of_kind).items()}
    macro = float(np.mean([by_kind[f"entity_f1/{kind}"] for kind in kinds]))
    return metrics | {"entity_macro_f1": macro} | by_kind


def _precision_recall_f1(detected: set, true: set) -> dict[str, float]:
    hits = len(detected & true)
    return {
        "entity_f1": 2 * hits / max(len(detected) + len(true), 1),
        "entity_precision": hits / max(len(detected), 1),
        "entity_recall": hits / max(len(true), 1),
        "num_entities": float(len(true)),
    }


def extract_entities(tags: list[str], strict: bool = True) -> list[tuple[str, int, int]]:
    """(kind, first word, one past the last word) of each entity.

    strict: only B-x begins an entity; otherwise also an I-x that follows neither B-x nor I-x.

    >>> extract_entities(["B-a", "I-a", "O", "I-b"]), extract_entities(["I-b"], strict=False)
    ([('a', 0, 2)], [('b', 0, 1)])
    """
    entities: list[tuple[str, int, int]] = []
    kind, start = "", 0
    for n, tag in enumerate([*tags, "O"]):
        tag_kind = tag[2:]
        if kind and (tag_kind != kind or tag.startswith("B-")):
            entities.append((kind, start, n))
            kind = ""
        if tag_kind and not kind and (tag.startswith("B-") or not strict):
            kind, start = tag_kind, n
    return entities


@dataclasses.dataclass(frozen=True)
class TagLookup:
    """Each word's most common tag in the training data; `default` is the most common tag of all words."""

    tags: dict[str, str]
    default: str

    @classmethod
    def fit(cls, train: data.Dataset, evaluation: Tags) -> "TagLookup":
        """From the records of training data. Words are compared in lower case."""
        by_word: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        total: collections.Counter[str] = collections.Counter()
        size, text, stream = evaluation.batch_size, evaluation.text, evaluation.stream
        for number, batch in enumerate(evaluation.batches_of(train, evaluation.train_limit)):
            for row in np.flatnonzero(has_streams(batch, stream)).tolist():
                words, tags = record_tags(train, text, stream, number * size + row)
                for word, tag in zip(words, tags, strict=True):
                    by_word[word.lower()][tag] += 1
                    total[tag] += 1
        if not total:
            raise InputError(f"lookup baseline: the data have no tags in {stream!r}: give another `train`")
        return cls({word: most_common(tags) for word, tags in by_word.items()}, most_common(total))

    def tag(self, word: str) -> str:
        """The word's tag, or the most common one if the word is unknown."""
        return self.tags.get(word.lower(), self.default)
