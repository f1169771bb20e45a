"""Cross-modal retrieval: given one modality of an example, find another among all the examples.

image->text/R@5                   share of queries whose right answer is among the five nearest
image->text/R@5/low, /high        95 % bootstrap interval
image->text/R@5/chance            candidates in random order
image->text/R@5/transfer, /cca    baselines that need no learning (baseline.py), when `train` is given
image->text/median_rank, /num_queries, /num_candidates
"""

import dataclasses
import itertools
from functools import partial

import numpy as np

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import baseline, gallery
from mmjax.evals.base import DrawPicture, Eval, Predictor, Result, accuracy_with_interval, heads_by_stream
from mmjax.evals.ranking import Relevance, chance, ranks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retrieval(Eval):
    """Ranks over ordered pairs of streams; identical items count as right (ranking.py)."""

    # {stream: its PooledEmbedding head}; a tuple of streams: the heads are named like them.
    heads: dict[str, str] | tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] | None = None  # (query, target); None: all ordered pairs
    ks: tuple[int, ...] = (1, 5, 10)
    # Where the baselines look for neighbours and correlations; None: no such baselines.
    train: data.Dataset | None = None
    train_limit: int | None = 20_000
    num_shown: int = 5  # queries on a sheet

    def __post_init__(self):
        streams = tuple(heads_by_stream(self.heads))
        self.check_streams(*streams)
        unknown = sorted(set(itertools.chain(*(self.pairs or ()))) - set(streams))
        if unknown or len(streams) < 2:
            raise InputError(
                f"Retrieval needs heads for two streams or more, and pairs of these; found {list(streams)}"
                + (f" and pairs that name {unknown}" if unknown else "")
                + ": add the missing ones to `heads`"
            )

    def required_heads(self) -> tuple[str, ...]:
        return tuple(heads_by_stream(self.heads).values())

    def __call__(self, predictor: Predictor) -> Result:
        sides = gallery.build_galleries(
            self, predictor, heads_by_stream(self.heads), with_raw=self.train is not None
        )
        raw = self.train and baseline.fit_raw_spaces(
            self.train, tuple(sides), batch_size=self.batch_size, limit=self.train_limit
        )
        metrics: dict[str, float] = {}
        pictures: dict[str, DrawPicture] = {}
        for query, target in self.pairs or itertools.permutations(sides, 2):
            paired = np.flatnonzero(sides[query].present & sides[target].present)
            if not len(paired):
                continue
            left, right = sides[query].take(paired), sides[target].take(paired)
            answers = Relevance.of(left.content_ids, right.content_ids)
            found = ranks(left.embeddings, right.embeddings, answers)
            scores = self.scores(found, answers)
            if raw:
                guesses = baseline.transfer_from_neighbours(raw[query], raw[target], left.raw)
                by_transfer = ranks(guesses, raw[target].place(right.raw), answers)
                scores |= {f"R@{k}/transfer": float((by_transfer <= k).mean()) for k in self.ks}
                correlated = baseline.CCABaseline.of(raw[query], raw[target])
                if correlated is not None:
                    places = correlated.places("query", raw[query].place(left.raw))
                    targets = correlated.places("target", raw[target].place(right.raw))
                    scores |= {
                        f"R@{k}/cca": float((ranks(places, targets, answers) <= k).mean()) for k in self.ks
                    }
            metrics |= {f"{query}->{target}/{name}": value for name, value in scores.items()}

            pictures[f"{query}_to_{target}"] = partial(
                gallery.draw_nearest, queries=left, targets=right, answers=answers,
                ranks=found, scores=scores, names=(query, target), num_shown=self.num_shown,
            )  # fmt: skip
            if f"{target}_{query}_similarity" not in pictures:
                pictures[f"{query}_{target}_similarity"] = partial(
                    gallery.draw_similarity,
                    queries=left,
                    targets=right,
                    answers=answers,
                    names=(query, target),
                )
        if not metrics:
            raise InputError(
                f"retrieval: no example has two of the streams {list(sides)} (pairs {self.pairs})"
            )
        return Result(metrics, pictures)

    def scores(self, found: np.ndarray, answers: Relevance) -> dict[str, float]:
        """Recall with intervals and chance, and the median, of the ranks "N"."""
        scores = {}
        for k in self.ks:
            mean, low, high = accuracy_with_interval(found <= k, answers.query_groups)
            scores |= {
                f"R@{k}": mean,
                f"R@{k}/low": low,
                f"R@{k}/high": high,
                f"R@{k}/chance": chance(answers, k),
            }
        sizes = {"num_queries": float(len(found)), "num_candidates": float(len(answers.candidates))}
        return scores | {"median_rank": float(np.median(found))} | sizes
