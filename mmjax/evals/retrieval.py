"""Cross-modal retrieval: given one stream of an example, find another among those of all the examples.

image->text/R@5                   fraction of queries with a relevant candidate among the five nearest
image->text/R@5/low, /high        95 % bootstrap interval
image->text/R@5/chance            candidates in random order
image->text/R@5/transfer, /cca    baselines without training (baseline.py), if `train` is given
image->text/mAP@10, /nDCG@10      of the ten nearest candidates; AP@10 is divided by min(10, relevant ones)
image->text/median_rank           of the best relevant candidate of each query
image->text/num_queries, /num_candidates

Conventions, beside those of open_clip: a query is right if any of its relevant candidates is found, for
example one of an image's five captions. An irrelevant candidate with an equal score ranks first, where
open_clip's order is arbitrary. The median of an even number of ranks is the mean of the middle two, where
open_clip rounds it down. Identical items are one candidate, where open_clip counts each of them.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import baseline, gallery
from mmjax.evals.base import DrawPicture, EmbeddingEval, Predictor, Result, interval_metrics
from mmjax.evals.once import is_known, once
from mmjax.evals.ranking import (
    Relevance,
    average_precision_at_k,
    chance_recall,
    ndcg_at_k,
    rank_queries,
    top_relevance,
)
from mmjax.ranges import Count, Whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(EmbeddingEval):
    """Recall over ordered pairs of streams. Identical items count as one (ranking.py).

    Pairs of streams with a single candidate are left out: any model would be right.

    pairs: (query, target) streams; None: all ordered pairs.
    train: training data for the baselines; None: no baselines.
    num_shown: queries on a sheet.
    """

    pairs: tuple[tuple[str, str], ...] | None = None
    ks: tuple[Count, ...] = (1, 5, 10)
    train: data.Dataset | None = None
    train_limit: Count | None = 20_000
    num_shown: Whole = 5

    def __post_init__(self):
        streams = tuple(self.heads_by_stream())
        self.check_streams(*streams)
        unknown = sorted(set(itertools.chain(*(self.pairs or ()))) - set(streams))
        if unknown or len(streams) < 2:
            raise InputError(
                f"Retrieval needs heads for two streams or more, and pairs of these; found {list(streams)}"
                + (f" and pairs that name {unknown}" if unknown else "")
                + ": add the missing ones to `heads`"
            )

    def __call__(self, predictor: Predictor) -> Result:
        heads = self.heads_by_stream()
        needs_raw = self.train is not None and not is_known(self, "baselines")
        galleries = gallery.build_galleries(self, predictor, heads, with_raw=needs_raw)
        baselines = {}
        if self.train is not None:
            train = self.train
            baselines = once(self, "baselines", lambda: self._baselines(train, galleries))
        metrics: dict[str, float] = {}
        pictures: dict[str, DrawPicture] = {}
        for query, target, queries, targets, relevance in self._paired(galleries):
            ranks = rank_queries(queries.embeddings, targets.embeddings, relevance)
            top = top_relevance(queries.embeddings, targets.embeddings, relevance, 10)
            scores = self.scores(ranks, top, relevance)
            scores |= baselines.get((query, target), {})
            metrics |= {f"{query}->{target}/{name}": value for name, value in scores.items()}
            shown = dict(queries=queries, targets=targets, relevance=relevance, names=(query, target))
            pictures[f"{query}_to_{target}"] = partial(
                gallery.draw_nearest, **shown, ranks=ranks, scores=scores, num_shown=self.num_shown
            )
            if f"{target}_{query}_similarity" not in pictures:
                pictures[f"{query}_{target}_similarity"] = partial(gallery.draw_similarity, **shown)
        if not metrics:
            raise InputError(
                f"retrieval: no example has two of the streams {list(galleries)} (pairs {self.pairs}), or "
                "all that do have one target: any ranking of one candidate is right"
            )
        return Result(metrics, pictures)

    def _paired(
        self, galleries: dict[str, gallery.Gallery]
    ) -> Iterator[tuple[str, str, gallery.Gallery, gallery.Gallery, Relevance]]:
        """Yields (query stream, target stream, queries, targets, relevance) for each pair with candidates."""
        for query, target in self.pairs or itertools.permutations(galleries, 2):
            paired = np.flatnonzero(galleries[query].present & galleries[target].present)
            if not len(paired):
                continue
            queries, targets = galleries[query].take(paired), galleries[target].take(paired)
            relevance = Relevance.from_ids(queries.content_ids, targets.content_ids)
            if len(relevance.candidates) >= 2:
                yield query, target, queries, targets, relevance

    def scores(self, ranks: np.ndarray, top: np.ndarray, relevance: Relevance) -> dict[str, float]:
        """Recall with intervals and chance, mAP@10, nDCG@10 and the median rank.

        Args:
          ranks: of each query's best relevant candidate, int "N".
          top: whether the candidates of rank 1 to 10 are relevant, bool "N 10".
        """
        scores = {}
        for k in self.ks:
            scores |= interval_metrics(f"R@{k}", ranks <= k, relevance.query_groups)
            scores[f"R@{k}/chance"] = chance_recall(relevance, k)
        sizes = {"num_queries": float(len(ranks)), "num_candidates": float(len(relevance.candidates))}
        num_relevant = np.diff(relevance.starts)[relevance.query_groups]
        scores["mAP@10"] = float(average_precision_at_k(top, num_relevant).mean())
        scores["nDCG@10"] = float(ndcg_at_k(top, num_relevant).mean())
        return scores | {"median_rank": float(np.median(ranks))} | sizes

    def _baselines(
        self, train: data.Dataset, galleries: dict[str, gallery.Gallery]
    ) -> dict[tuple[str, str], dict[str, float]]:
        """{(query, target): the recall of baselines}, from the raw features of the galleries."""
        spaces = baseline.fit_raw_spaces(
            train,
            tuple(galleries),
            batch_size=self.batch_size,
            limit=self.train_limit,
            max_bad_fraction=self.max_bad_fraction,
        )
        return {
            (query, target): self._recall(spaces[query], spaces[target], queries.raw, targets.raw, relevance)
            for query, target, queries, targets, relevance in self._paired(galleries)
        }

    def _recall(
        self, query_space: baseline.RawFeatureSpace, target_space: baseline.RawFeatureSpace,
        queries: np.ndarray, targets: np.ndarray, relevance: Relevance,
    ) -> dict[str, float]:  # fmt: skip
        """Recall of nearest-neighbour transfer and of CCA from raw features "N F"."""
        transferred = baseline.transfer_from_neighbours(query_space, target_space, queries)
        targets = target_space.project(targets)
        ranks = {"transfer": rank_queries(transferred, targets, relevance)}
        cca = baseline.CCABaseline.fit(query_space, target_space)
        if cca is not None:
            queries = cca.project(cca.query, query_space.project(queries))
            ranks["cca"] = rank_queries(queries, cca.project(cca.target, targets), relevance)
        return {f"R@{k}/{name}": float((ranks[name] <= k).mean()) for name in ranks for k in self.ks}
