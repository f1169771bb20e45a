"""Error rates of predicted texts, and of baselines without training."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax import data
from mmjax.batch import Text
from mmjax.evals import baseline
from mmjax.evals.base import Eval, has_streams


def edit_distance(predicted: Sequence, target: Sequence) -> int:
    """The fewest insertions, deletions and substitutions between two sequences (Levenshtein 1966)."""
    costs = list(range(len(target) + 1))
    for row, symbol in enumerate(predicted, start=1):
        diagonal, costs[0] = costs[0], row  # `diagonal` is the cost one row before and one column to the left
        for column, target_symbol in enumerate(target, start=1):
            substituted = diagonal + (symbol != target_symbol)
            diagonal = costs[column]
            costs[column] = min(substituted, diagonal + 1, costs[column - 1] + 1)
    return costs[-1]


def error_rate(predicted: Sequence[Sequence], targets: Sequence[Sequence]) -> float:
    """The sum of all edit distances over the sum of all target lengths. It may be above 1."""
    edits = sum(edit_distance(*pair) for pair in zip(predicted, targets, strict=True))
    return edits / max(sum(len(target) for target in targets), 1)


def text_metrics(predicted: list[list[int]], targets: list[list[int]], tokenizer: Any) -> dict[str, float]:
    """The fraction of exact matches and the error rates by words and by tokens, of lists of token ids."""
    words, target_words = ([tokenizer.decode(ids).split() for ids in each] for each in (predicted, targets))
    return {
        "exact": float(np.mean([ids == target for ids, target in zip(predicted, targets, strict=True)])),
        "word_error_rate": error_rate(words, target_words),
        "token_error_rate": error_rate(predicted, targets),
    }


def token_ids_by_row(text: Text) -> list[list[int]]:
    """Each row's token ids without special tokens and padding."""
    is_word = np.asarray(text.mask) & (np.asarray(text.words) >= 0)
    return [tokens[row].tolist() for tokens, row in zip(np.asarray(text.tokens), is_word, strict=True)]


def baseline_metrics(
    evaluation: Eval, train: data.Dataset, train_limit: int | None, stream: str, sources: Sequence[str],
    targets: list[list[int]], tokenizer: Any,
) -> dict[str, float]:  # fmt: skip
    """{"<baseline>/<metric>"} of `text_metrics` for two kinds of baselines.

    "most_common" predicts the most common training text. "nearest/<source>" predicts the text of the training
    example whose source stream is nearest in raw features.

    Args:
      stream: the texts that are predicted.
      targets: those of the examples that have `stream` and all `sources`, in the order of the data.
    """
    size, texts = evaluation.batch_size, []
    for batch in data.epoch(train, size, train_limit):
        texts += token_ids_by_row(batch[stream])
    common = list(baseline.most_common(collections.Counter(tuple(ids) for ids in texts if ids)))
    spaces = baseline.fit_raw_spaces(train, tuple(sources), batch_size=size, limit=train_limit)
    has_text = np.asarray([bool(ids) for ids in texts])
    predicted: dict[str, list[list[int]]] = {"most_common": [common] * len(targets)}
    predicted |= {f"nearest/{source}": [] for source in sources}
    for batch in evaluation.batches():
        rows = has_streams(batch, stream, *sources)
        for source in sources:
            space = spaces[source]
            transform = evaluation.data.streams[source]
            vectors = space.project(baseline.raw_features(batch[source], transform)[rows])
            similarities = np.where(space.present & has_text, vectors @ space.vectors.T, -np.inf)
            predicted[f"nearest/{source}"] += [texts[row] for row in similarities.argmax(axis=1)]
    return {
        f"{name}/{metric}": value
        for name, ids in predicted.items()
        for metric, value in text_metrics(ids, targets, tokenizer).items()
    }
