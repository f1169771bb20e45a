"""The rank of the right answer among many candidates: who counts as right, ranks in chunks, recall, chance.

Identical items are one item. Examples with the same raw target input (the same word, twin pictures) are one
candidate, and a candidate is right for a query if any example pairs that query's raw input with it. So "six"
thirty times over does not fill thirty places, and each recording of "seven" answers the query "seven".
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from mmjax.batch import Audio, Image, Labels, Stream, Text

MAX_SCORES_PER_CHUNK = 1 << 22  # float32 values of the largest block of scores: 16 MiB


def content_ids(stream: Stream) -> list[str]:
    """A digest of each row's raw input (tokens, pixels, samples; no padding): equal inputs, equal digests."""
    match stream:
        case Text(tokens=values, mask=mask) | Audio(samples=values, mask=mask):
            rows = [row[kept] for row, kept in zip(np.asarray(values), np.asarray(mask), strict=True)]
        case Image(pixels=values) | Labels(values=values):
            rows = list(np.asarray(values))
        case _:
            raise TypeError(f"expected a Text, Image, Audio or Labels, found {type(stream).__name__}")
    return [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=12).hexdigest() for row in rows]


@dataclasses.dataclass(frozen=True)
class Relevance:
    """N queries, M distinct candidates, and which of these are right for each query."""

    query_groups: np.ndarray  # int "N": queries with the same raw input share a number
    candidates: np.ndarray  # int "M": the example at which each distinct candidate first occurs
    starts: np.ndarray  # int "groups+1": the right candidates of group g are rights[starts[g]:starts[g+1]]
    rights: np.ndarray  # int "R": places in `candidates`

    @classmethod
    def of(cls, query_ids: Sequence[str] | np.ndarray, target_ids: Sequence[str] | np.ndarray) -> "Relevance":
        """From the digests of N paired examples."""
        _, queries = np.unique(np.asarray(query_ids), return_inverse=True)
        _, first, targets = np.unique(np.asarray(target_ids), return_index=True, return_inverse=True)
        order = np.argsort(first)  # candidates stay in the data's order, whatever their digests
        pairs = np.unique(
            np.stack([queries.reshape(-1), np.argsort(order)[targets.reshape(-1)]], axis=1), axis=0
        )
        starts = np.searchsorted(pairs[:, 0], np.arange(queries.max() + 2))
        return cls(queries.reshape(-1), first[order], starts, pairs[:, 1])

    def of_query(self, query: int) -> np.ndarray:
        """Places in ``candidates`` that are right for one query."""
        group = self.query_groups[query]
        return self.rights[self.starts[group] : self.starts[group + 1]]

    def mask(self, queries: Sequence[int] | np.ndarray) -> np.ndarray:
        """bool ``"len(queries) M"``: is the candidate right?"""
        right = np.zeros((len(queries), len(self.candidates)), bool)
        for row, query in enumerate(queries):
            right[row, self.of_query(query)] = True
        return right


def ranks(
    queries: np.ndarray, targets: np.ndarray, answers: Relevance, chunk: int | None = None
) -> np.ndarray:
    """Rank, from 1, of the best right candidate of each query: int ``"N"``.

    ``queries`` and ``targets`` are "N E", row by row the same examples; scores are dot products. A wrong
    candidate that ties with the right one stands before it: a model that maps everything onto one point gets
    nothing right, not everything. ``chunk`` queries are scored at once (None: MAX_SCORES_PER_CHUNK scores).

    >>> answers = Relevance.of(["a", "b", "c"], ["x", "y", "x"])  # the first and the third have one answer
    >>> ranks(np.eye(3), np.asarray([[1, 0, 0], [1, 1, 0], [0, 0, 1]]), answers).tolist()
    [2, 1, 2]
    """
    candidates = targets[answers.candidates].T
    chunk = chunk or max(1, MAX_SCORES_PER_CHUNK // candidates.shape[1])
    found = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), chunk):
        rows = range(start, min(start + chunk, len(queries)))
        scores = queries[rows.start : rows.stop] @ candidates
        right = answers.mask(rows)
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        found[rows.start : rows.stop] = 1 + ((scores >= best) & ~right).sum(axis=1)
    return found


def chance(answers: Relevance, k: int) -> float:
    """R@k in random order: the mean over queries of 1 - C(M - r, k) / C(M, k), r of M being right."""
    num_candidates = len(answers.candidates)
    num_right = np.diff(answers.starts)[answers.query_groups]
    drawn = np.arange(min(k, num_candidates))
    misses = np.clip((num_candidates - num_right[:, None] - drawn) / (num_candidates - drawn), 0, 1)
    return float(1 - misses.prod(axis=1).mean())
