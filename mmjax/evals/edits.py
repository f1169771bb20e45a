"""How far is what was said from what is true? Edit distance, and the rates that are made of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax import data
from mmjax.batch import Text
from mmjax.evals import baseline
from mmjax.evals.base import has_streams


def edit_distance(said: Sequence, true: Sequence) -> int:
    """The fewest insertions, deletions and substitutions between two sequences (Levenshtein 1966)."""
    costs = list(range(len(true) + 1))
    for row, one in enumerate(said, start=1):
        above, costs[0] = costs[0], row  # `above` is the cost of the row before, one place to the left
        for place, other in enumerate(true, start=1):
            substituted = above + (one != other)
            above = costs[place]
            costs[place] = min(substituted, above + 1, costs[place - 1] + 1)
    return costs[-1]


def error_rate(said: Sequence[Sequence], true: Sequence[Sequence]) -> float:
    """Edits of all examples by the length of all that is true: above 1 where too much was said."""
    edits = sum(edit_distance(*pair) for pair in zip(said, true, strict=True))
    return edits / max(sum(len(sequence) for sequence in true), 1)


def rates(said: list[list[int]], true: list[list[int]], tokenizer: Any) -> dict[str, float]:
    """Share of texts that are right, and the error rates by words and by tokens, of lists of token ids."""
    said_words, true_words = ([tokenizer.decode(ids).split() for ids in texts] for texts in (said, true))
    return {
        "exact": float(np.mean([one == other for one, other in zip(said, true, strict=True)])),
        "word_error_rate": error_rate(said_words, true_words),
        "token_error_rate": error_rate(said, true),
    }


def token_ids_by_row(text: Text) -> list[list[int]]:
    """Each row's token ids without special tokens."""
    spoken = np.asarray(text.mask) & (np.asarray(text.words) >= 0)
    return [tokens[kept].tolist() for tokens, kept in zip(np.asarray(text.tokens), spoken, strict=True)]


def baselines(
    train: data.Dataset, test: data.Dataset, stream: str, sources: Sequence[str], *, batch_size: int,
    limit: int | None, train_limit: int | None,
) -> dict[str, list[list[int]]]:  # fmt: skip
    """What needs no learning, for each test example that has `stream` and all `sources`, in order.

    "most_common" is always the most common training text. "nearest/audio" is the text of the training example
    whose audio is nearest in raw features.
    """
    texts: list[list[int]] = []
    for batch in data.epoch(train, batch_size, train_limit):
        texts += token_ids_by_row(batch[stream])
    counts: dict[tuple[int, ...], int] = {}
    for ids in filter(None, texts):
        counts[tuple(ids)] = counts.get(tuple(ids), 0) + 1
    usual = min(counts, key=lambda ids: (-counts[ids], ids))
    spaces = baseline.fit_raw_spaces(train, tuple(sources), batch_size=batch_size, limit=train_limit)
    has_text = np.asarray([bool(ids) for ids in texts])
    said: dict[str, list[list[int]]] = {
        name: [] for name in ("most_common", *(f"nearest/{s}" for s in sources))
    }
    for batch in data.epoch(test, batch_size, limit):
        there = has_streams(batch, stream, *sources)
        said["most_common"] += [list(usual)] * int(there.sum())
        for source in sources:
            space = spaces[source]
            rows = space.place(baseline.raw_features(batch[source], test.streams[source])[there])
            near = np.where(space.present & has_text, rows @ space.units.T, -np.inf).argmax(axis=1)
            said[f"nearest/{source}"] += [texts[place] for place in near]
    return said
