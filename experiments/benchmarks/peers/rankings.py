"""Retrieval, and linear algebra of baselines, beside open_clip and scikit-learn."""

import numpy as np
import sklearn.metrics
import torch

from mmjax.evals import cca
from mmjax.evals.ranking import (
    Relevance,
    average_precision_at_k,
    ndcg_at_k,
    rank_queries,
    top_relevance,
)
from peers.comparison import Comparison

RNG = np.random.default_rng(0)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


FIRST = unit(RNG.normal(size=(101, 12)))
SECOND = unit(FIRST + RNG.normal(size=(101, 12)) * 0.5)


def clip_metrics():
    from open_clip_train.train import get_clip_metrics

    theirs = get_clip_metrics(torch.from_numpy(FIRST), torch.from_numpy(SECOND), 100.0)
    ids = [str(n) for n in range(101)]
    relevance, ours = Relevance.from_ids(ids, ids), {}
    for name, pair in (("image_to_text", (FIRST, SECOND)), ("text_to_image", (SECOND, FIRST))):
        ranks = rank_queries(*pair, relevance)
        ours |= {f"{name}_R@{k}": (ranks <= k).mean() for k in (1, 5, 10)}
        ours |= {f"{name}_mean_rank": ranks.mean(), f"{name}_median_rank": np.median(ranks)}
    return ours, {name: float(value) for name, value in theirs.items()}


def several_captions():
    """Twenty images with five captions each: an image is right if one of its captions is among the five."""
    from torchmetrics.functional.retrieval import retrieval_hit_rate

    images, captions = np.repeat(FIRST[:20], 5, axis=0), SECOND[:100]
    ids = [str(n) for n in range(100)]
    relevance = Relevance.from_ids([str(n // 5) for n in range(100)], ids)
    ranks = rank_queries(images, captions, relevance)
    theirs = [
        retrieval_hit_rate(
            torch.from_numpy(images[n] @ captions.T), torch.from_numpy(np.arange(100) // 5 == n // 5), top_k=5
        )
        for n in range(100)
    ]
    return (ranks <= 5).mean(), np.mean(theirs)


def graded(num_candidates: int):
    """40 queries; the relevant candidates of each, and the first ten by score."""
    rng = np.random.default_rng(1)
    queries, targets = (
        unit(rng.normal(size=(4 * num_candidates, 6))),
        unit(rng.normal(size=(num_candidates, 6))),
    )
    query_ids = np.arange(len(queries)) % 9
    target_numbers = np.arange(len(queries)) % num_candidates
    targets = targets[target_numbers]
    queries = queries[query_ids]
    relevance = Relevance.from_ids(query_ids.astype(str), target_numbers.astype(str))
    top = top_relevance(queries, targets, relevance, 10)
    num_relevant = np.diff(relevance.starts)[relevance.query_groups]
    labels = relevance.mask(range(len(queries)))
    return top, num_relevant, labels, queries @ targets[relevance.candidates].T


def mean_average_precision():
    top, num_relevant, labels, scores = graded(10)
    theirs = sklearn.metrics.label_ranking_average_precision_score(labels, scores)
    return average_precision_at_k(top, num_relevant).mean(), theirs


def ndcg():
    top, num_relevant, labels, scores = graded(40)
    return ndcg_at_k(top, num_relevant).mean(), sklearn.metrics.ndcg_score(labels.astype(int), scores, k=10)


def pca():
    from sklearn.decomposition import PCA

    x = RNG.normal(size=(50, 6)) @ RNG.normal(size=(6, 6))
    linear, variances = cca.pca(x, 3)
    theirs = PCA(3).fit(x)
    return [np.abs(linear(x)), variances], [np.abs(theirs.transform(x)), theirs.explained_variance_]


def canonical_correlations():
    from sklearn.cross_decomposition import CCA

    x = RNG.normal(size=(200, 5))
    y = x @ RNG.normal(size=(5, 4)) + RNG.normal(size=(200, 4))
    ours = cca.cca(x, y, 3, regularise=0.0)[2]
    first, second = CCA(3, max_iter=5000, tol=1e-12).fit_transform(x, y)
    return ours, [np.corrcoef(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True)]


ROWS = (
    Comparison(
        "R@k, mean and median rank", "open_clip_torch", "open_clip_train.get_clip_metrics", clip_metrics
    ),
    Comparison("R@5, five captions an image", "torchmetrics", "retrieval_hit_rate", several_captions),
    Comparison(
        "mAP of ten candidates",
        "scikit-learn",
        "label_ranking_average_precision_score",
        mean_average_precision,
    ),
    Comparison("nDCG@10", "scikit-learn", "ndcg_score", ndcg),
    Comparison("principal components", "scikit-learn", "PCA", pca),
    Comparison("canonical correlations", "scikit-learn", "CCA", canonical_correlations),
)
