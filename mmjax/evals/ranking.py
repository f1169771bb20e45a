"""Ranks of relevant candidates for retrieval queries, and the scores of rankings.

Identical items are one item. Examples with the same raw target input (the same text, the same image) are one
candidate, and a candidate is relevant to a query if any example pairs it with the query's raw input. Thirty
examples of the text "six" are therefore one candidate, and each recording of "seven" is relevant to "seven".
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from mmjax.batch import Audio, Image, Labels, Stream, Text

MAX_SCORES_PER_CHUNK = 1 << 22  # float32 values of the largest block of scores: 16 MiB


def content_ids(stream: Stream) -> list[str]:
    """A digest of each row's raw input (tokens, pixels, samples), padding excluded."""
    match stream:
        case Text(tokens=values, mask=mask) | Audio(samples=values, mask=mask):
            rows = [row[valid] for row, valid in zip(np.asarray(values), np.asarray(mask), strict=True)]
        case Image(pixels=values) | Labels(values=values):
            rows = list(np.asarray(values))
        case _:
            raise TypeError(f"expected a Text, Image, Audio or Labels, found {type(stream).__name__}")
    return [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=12).hexdigest() for row in rows]


@dataclasses.dataclass(frozen=True)
class Relevance:
    """N queries, M distinct candidates, and which candidates are relevant to each query."""

    query_groups: np.ndarray  # int "N": queries with the same raw input share a number
    candidates: np.ndarray  # int "M": the example at which each distinct candidate first occurs
    starts: np.ndarray  # int "groups+1": group g's candidates are relevant[starts[g]:starts[g+1]]
    relevant: np.ndarray  # int "R": indices into `candidates`

    @classmethod
    def from_ids(
        cls, query_ids: Sequence[str] | np.ndarray, target_ids: Sequence[str] | np.ndarray
    ) -> "Relevance":
        """From the content ids "N" of paired examples."""
        _, queries = np.unique(np.asarray(query_ids), return_inverse=True)
        _, first, targets = np.unique(np.asarray(target_ids), return_index=True, return_inverse=True)
        order = np.argsort(first)  # candidates keep the order of the data, whatever their digests
        pairs = np.unique(
            np.stack([queries.reshape(-1), np.argsort(order)[targets.reshape(-1)]], axis=1), axis=0
        )
        starts = np.searchsorted(pairs[:, 0], np.arange(queries.max() + 2))
        return cls(queries.reshape(-1), first[order], starts, pairs[:, 1])

    def relevant_to(self, query: int) -> np.ndarray:
        """Indices "R" into `candidates` of those that are relevant to one query."""
        group = self.query_groups[query]
        return self.relevant[self.starts[group] : self.starts[group + 1]]

    def mask(self, queries: Sequence[int] | np.ndarray) -> np.ndarray:
        """Whether each candidate is relevant to each of these queries: bool "len(queries) M"."""
        mask = np.zeros((len(queries), len(self.candidates)), bool)
        for row, query in enumerate(queries):
            mask[row, self.relevant_to(query)] = True
        return mask


def rank_queries(
    queries: np.ndarray, targets: np.ndarray, relevance: Relevance, chunk: int | None = None
) -> np.ndarray:
    """The rank, from 1, of the best relevant candidate of each query: int "N".

    `queries` and `targets` "N E" are paired row by row, and scores are dot products. An irrelevant candidate
    that ties with a relevant one ranks before it: a model that maps every input to one point has the worst
    ranks, not the best. `chunk` queries are scored at once (None: MAX_SCORES_PER_CHUNK scores).

    >>> relevance = Relevance.from_ids(["a", "b", "c"], ["x", "y", "x"])  # "x" is relevant to "a" and "c"
    >>> rank_queries(np.eye(3), np.asarray([[1, 0, 0], [1, 1, 0], [0, 0, 1]]), relevance).tolist()
    [2, 1, 2]
    """
    candidates = targets[relevance.candidates].T
    chunk = chunk or max(1, MAX_SCORES_PER_CHUNK // candidates.shape[1])
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), chunk):
        rows = range(start, min(start + chunk, len(queries)))
        scores = queries[rows.start : rows.stop] @ candidates
        mask = relevance.mask(rows)
        best = np.where(mask, scores, -np.inf).max(axis=1, keepdims=True)
        ranks[rows.start : rows.stop] = 1 + ((scores >= best) & ~mask).sum(axis=1)
    return ranks


def top_relevance(
    queries: np.ndarray, targets: np.ndarray, relevance: Relevance, k: int, chunk: int | None = None
) -> np.ndarray:
    """Whether the candidates of rank 1 to `k` are relevant: bool "N min(k, M)". Ties as in `rank_queries`."""
    candidates = targets[relevance.candidates].T
    chunk = chunk or max(1, MAX_SCORES_PER_CHUNK // candidates.shape[1])
    k = min(k, candidates.shape[1])
    parts = [np.zeros((0, k), bool)]
    for start in range(0, len(queries), chunk):
        rows = range(start, min(start + chunk, len(queries)))
        mask = relevance.mask(rows)
        # One float64 below, where no float32 is: a relevant candidate ranks after irrelevant ones that tie.
        scores = (queries[rows.start : rows.stop] @ candidates).astype(np.float64)
        scores = np.where(mask, np.nextafter(scores, -np.inf), scores)
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        parts.append(np.take_along_axis(mask, np.take_along_axis(best, order, axis=1), axis=1))
    return np.concatenate(parts)


def average_precision_at_k(top: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """AP@k of each query, "N": the sum of precisions at the ranks of relevant candidates, over min(R, k).

    Args:
      top: whether the candidates of rank 1 to k are relevant, bool "N k".
      num_relevant: R, the number of relevant candidates of each query, int "N".
    """
    precisions = np.cumsum(top, axis=1) / np.arange(1, top.shape[1] + 1)
    return (precisions * top).sum(axis=1) / np.minimum(num_relevant, top.shape[1])


def ndcg_at_k(top: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """nDCG@k of each query, "N", with gains of 0 and 1 (Jarvelin & Kekalainen 2002). Arguments as above."""
    discounts = 1 / np.log2(np.arange(2, top.shape[1] + 2))
    ideal = np.cumsum(discounts)[np.minimum(num_relevant, top.shape[1]) - 1]
    return (top * discounts).sum(axis=1) / ideal


def chance_recall(relevance: Relevance, k: int) -> float:
    """R@k of a random order: the mean over queries of 1 - C(M - r, k) / C(M, k), with r of M relevant."""
    num_candidates = len(relevance.candidates)
    num_relevant = np.diff(relevance.starts)[relevance.query_groups]
    num_left = num_candidates - np.arange(min(k, num_candidates))
    misses = np.clip((num_left - num_relevant[:, None]) / num_left, 0, 1)
    return float(1 - misses.prod(axis=1).mean())
