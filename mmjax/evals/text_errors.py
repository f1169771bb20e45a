"""Error rates of predicted texts against the records' own texts, and of baselines without training.

exact                  fraction of texts without an error
word_error_rate        insertions, deletions and substitutions by the number of true words
character_error_rate   the same by characters, of which the spaces between words are some
token_error_rate       the same by tokens

The rates are the sums of edits over the sums of lengths of all examples together, and may be above 1. They
equal those of the jiwer package, given the same normalised texts. References come from the records: a word
that the vocabulary lacks ([UNK]) or that the text's length cuts off is an error unless it is predicted.
"""

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import baseline
from mmjax.evals.base import HeadEval, has_streams
from mmjax.ranges import Count

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # stands for [UNK] in a predicted text: equal to no word


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEval(HeadEval):
    """The base of evaluations that compare predicted texts with the records' own texts.

    stream: the texts.
    train: training data for the baselines; None: no baselines.
    ignore_case: compare in lower case.
    ignore_punctuation: delete punctuation, the characters of Unicode's categories P: "don't" is "dont".
    """

    stream: str = "text"
    train: data.Dataset | None = None
    train_limit: Count | None = 20_000
    ignore_case: bool = True
    ignore_punctuation: bool = True

    def references(self, batch_number: int, rows: np.ndarray) -> list[str]:
        """The records' own texts of those rows "B" of a batch that are True."""
        return record_texts(self.data, self.stream, batch_number * self.batch_size + np.flatnonzero(rows))

    def text_errors(self, references: Sequence[str]) -> "TextErrors":
        """The counter of errors against these references. Raises InputError if none of them has a word."""
        tokenizer = self.data.streams[self.stream].tokenizer.open()
        return TextErrors(references, tokenizer, self.ignore_case, self.ignore_punctuation)

    def baseline_metrics(
        self, train: data.Dataset, sources: Sequence[str], errors: "TextErrors"
    ) -> dict[str, float]:
        """{"<baseline>/<metric>"} for two kinds of baselines.

        "most_common" predicts the most common training text. "nearest/<source>" predicts the text of the
        training example whose source stream is nearest in raw features.

        Args:
          errors: of the examples that have `stream` and all `sources`, in the order of the data.
        """
        texts = _train_texts(self, train)
        common = baseline.most_common(collections.Counter(text for text in texts if text))
        predicted: dict[str, list[str]] = {"most_common": [common] * len(errors.references)}
        spaces = baseline.fit_raw_spaces(
            train,
            tuple(sources),
            batch_size=self.batch_size,
            limit=self.train_limit,
            max_bad_fraction=self.max_bad_fraction,
        )
        predicted |= {f"nearest/{source}": [] for source in sources}
        has_text = np.asarray([bool(text) for text in texts])
        for batch in self.batches():
            rows = has_streams(batch, self.stream, *sources)
            for source in sources:
                space, transform = spaces[source], self.data.streams[source]
                vectors = space.project(baseline.raw_features(batch[source], transform)[rows])
                similarities = np.where(space.present & has_text, vectors @ space.vectors.T, -np.inf)
                predicted[f"nearest/{source}"] += [texts[row] for row in similarities.argmax(axis=1)]
        return {
            f"{name}/{metric}": value
            for name, answers in predicted.items()
            for metric, value in errors.of_texts(answers).items()
        }


def record_texts(dataset: data.Dataset, stream: str, indices: Sequence[int] | np.ndarray) -> list[str]:
    """The records' own texts, neither tokenized nor truncated, of the examples with these indices."""
    reader, transform = dataset.source.open(), dataset.streams[stream]
    return [transform.reference_text(reader[int(index)]) for index in indices]


def _train_texts(evaluation: TextEval, train: data.Dataset) -> list[str]:
    """The text of each training example; "" where it has none."""
    size, texts = evaluation.batch_size, list[str]()
    for number, batch in enumerate(evaluation.batches_of(train, evaluation.train_limit)):
        rows = has_streams(batch, evaluation.stream)
        found = iter(record_texts(train, evaluation.stream, number * size + np.flatnonzero(rows)))
        texts += [next(found) if row else "" for row in rows]
    if not any(texts):
        raise InputError(f"baseline: no training example has {evaluation.stream!r}: give another `train`")
    return texts


class TextErrors:
    """Compares predicted texts with references, one by one."""

    def __init__(
        self,
        references: Sequence[str],
        tokenizer: Any,
        ignore_case: bool = True,
        ignore_punctuation: bool = True,
    ):
        self.references = list(references)
        self._tokenizer = tokenizer
        self._options = ignore_case, ignore_punctuation
        self._normalised = [normalise(text, *self._options) for text in self.references]
        if not any(self._normalised):
            raise InputError(
                f"expected words in the {len(self.references)} texts of the data, found only punctuation: "
                "set ignore_punctuation=False"
            )
        unknown = tokenizer.special_ids.get("unk")
        ids = (tokenizer.encode(text)[0] for text in self.references)
        # -1 equals no predicted token, not even [UNK].
        self._ids = [[-1 if token == unknown else token for token in row] for row in ids]

    def of_ids(self, predicted: Sequence[Sequence[int]]) -> dict[str, float]:
        """The metrics of predicted token ids."""
        pairs = zip(predicted, self.references, strict=True)
        texts = [decode_like(ids, reference, self._tokenizer) for ids, reference in pairs]
        return self._metrics(texts, predicted)

    def of_texts(self, predicted: Sequence[str]) -> dict[str, float]:
        """The metrics of predicted texts."""
        return self._metrics(predicted, [self._tokenizer.encode(text)[0] for text in predicted])

    def _metrics(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> dict[str, float]:
        found, true = [normalise(text, *self._options) for text in texts], self._normalised
        return {
            "exact": float(np.mean([text == reference for text, reference in zip(found, true, strict=True)])),
            "word_error_rate": error_rate([x.split() for x in found], [x.split() for x in true]),
            "character_error_rate": error_rate(found, true),
            "token_error_rate": error_rate(ids, self._ids),
        }


def normalise(text: str, ignore_case: bool = True, ignore_punctuation: bool = True) -> str:
    """A text as it is compared: in Unicode's composed form (NFC), its words separated by one space.

    >>> normalise("“Don't”,  he said - twice.")
    'dont he said twice'
    """
    text = unicodedata.normalize("NFC", text.replace("[UNK]", UNKNOWN))
    if ignore_case:
        text = text.lower()
    if ignore_punctuation:
        text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
    return " ".join(text.split())


def decode_like(ids: Sequence[int], reference: str, tokenizer: Any) -> str:
    """The text of predicted token ids, in which words of the reference are spaced as there.

    WordPiece forgets the spaces around punctuation: "don't" and "don ' t" have the same tokens.
    """
    text = tokenizer.decode(ids)
    for word in sorted(set(reference.split()), key=lambda word: (-len(word), word)):
        spaced = tokenizer.decode(tokenizer.encode(word)[0])
        joined = spaced.replace(" ", "")
        if spaced != joined and joined.lower() == word.lower():
            text = re.sub(rf"(?<!\S){re.escape(spaced)}(?!\S)", joined.replace("\\", r"\\"), text)
    return text


def edit_distance(predicted: Sequence, target: Sequence) -> int:
    """The fewest insertions, deletions and substitutions between two sequences (Levenshtein 1966)."""
    numbers = {symbol: number for number, symbol in enumerate(dict.fromkeys([*predicted, *target]))}
    symbols = np.asarray([numbers[symbol] for symbol in target], np.int64)
    columns = np.arange(len(target) + 1)
    costs = columns
    for row, symbol in enumerate(predicted, start=1):
        best = np.minimum(costs[1:] + 1, costs[:-1] + (symbols != numbers[symbol]))
        # The minimum over j <= i of best[j] + (i - j) adds insertions from the left to the whole row at once.
        costs = np.minimum.accumulate(np.concatenate([[row], best]) - columns) + columns
    return int(costs[-1])


def error_rate(predicted: Sequence[Sequence], targets: Sequence[Sequence]) -> float:
    """The sum of all edit distances over the sum of all target lengths. It may be above 1.

    An empty target adds the length of its prediction to the edits.
    """
    edits = sum(edit_distance(*pair) for pair in zip(predicted, targets, strict=True))
    length = sum(len(target) for target in targets)
    if not length:
        raise InputError("expected texts with something to predict, found only empty ones")
    return edits / length
