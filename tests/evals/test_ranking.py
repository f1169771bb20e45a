"""Ranks, recall and chance against plain loops over queries and candidates."""

import itertools

import numpy as np
import pytest
from fakes import unit

from mmjax.batch import Audio, Image, Text
from mmjax.evals.base import interval_metrics
from mmjax.evals.ranking import (
    Relevance,
    average_precision_at_k,
    chance_recall,
    content_ids,
    ndcg_at_k,
    rank_queries,
    top_relevance,
)


def loop_ranks(queries, targets, query_ids, target_ids):
    ranks = []
    for i in range(len(queries)):
        relevant, irrelevant = [], {}
        for j in range(len(targets)):
            is_relevant = any(
                query_ids[k] == query_ids[i] and target_ids[k] == target_ids[j] for k in range(len(queries))
            )
            score = float(queries[i] @ targets[j])
            if is_relevant:
                relevant.append(score)
            else:
                irrelevant[target_ids[j]] = score  # identical candidates have one score and count once
        ranks.append(1 + sum(score >= max(relevant) for score in irrelevant.values()))
    return ranks


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_ranks_equal_a_loop_also_with_identical_items(chunk):
    rng = np.random.default_rng(0)
    query_ids = rng.integers(0, 9, 24).astype(str).tolist()
    target_ids = rng.integers(0, 12, 24).astype(str).tolist()
    table = unit(rng.normal(size=(12, 4)))
    targets = table[[int(name) for name in target_ids]]
    queries = unit(rng.normal(size=(9, 4)))[[int(name) for name in query_ids]]
    ranks = rank_queries(queries, targets, Relevance.from_ids(query_ids, target_ids), chunk)
    assert ranks.tolist() == loop_ranks(queries, targets, query_ids, target_ids)
    assert len(set(ranks.tolist())) > 3, "too few distinct ranks for a meaningful test"


def test_a_model_that_maps_all_inputs_to_one_point_has_the_worst_ranks():
    same = unit(np.ones((6, 3)))
    relevance = Relevance.from_ids(*[[str(n) for n in range(6)]] * 2)
    assert rank_queries(same, same, relevance).tolist() == [6] * 6
    assert not top_relevance(same, same, relevance, 5).any()


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_top_candidates_equal_a_sort(chunk):
    rng = np.random.default_rng(0)
    query_ids, target_ids = (rng.integers(0, size, 30).astype(str).tolist() for size in (6, 14))
    relevance = Relevance.from_ids(query_ids, target_ids)
    # Small integers, so that many scores are equal.
    table = rng.integers(-2, 3, (14, 3)).astype(np.float32)
    targets = table[[int(name) for name in target_ids]]
    queries = rng.integers(-2, 3, (6, 3)).astype(np.float32)[[int(name) for name in query_ids]]
    top = top_relevance(queries, targets, relevance, 5, chunk)
    scores, mask = queries @ targets[relevance.candidates].T, relevance.mask(range(30))
    for row in range(30):
        ranked = sorted(zip(-scores[row], mask[row], strict=True))  # False, irrelevant, before True
        assert top[row].tolist() == [is_relevant for _, is_relevant in ranked[:5]]
    first = np.where(top.any(axis=1), top.argmax(axis=1) + 1, 6)
    assert (np.minimum(rank_queries(queries, targets, relevance), 6) == first).all()
    assert top_relevance(queries, targets, relevance, 99).shape == (30, len(relevance.candidates))


def test_average_precision_and_ndcg_at_k():
    top = np.array([[True, False, True, False], [False, False, False, True], [False] * 4])
    num_relevant = np.array([2, 9, 1])
    expected = [(1 / 1 + 2 / 3) / 2, (1 / 4) / 4, 0]
    np.testing.assert_allclose(average_precision_at_k(top, num_relevant), expected)
    ideal = [1 + 1 / np.log2(3), 1 + 1 / np.log2(3) + 1 / 2 + 1 / np.log2(5), 1]
    expected = [(1 + 1 / 2) / ideal[0], (1 / np.log2(5)) / ideal[1], 0]
    np.testing.assert_allclose(ndcg_at_k(top, num_relevant), expected)


def test_candidates_keep_the_order_of_the_data():
    relevance = Relevance.from_ids(["z", "y", "x", "w"], ["d", "c", "d", "a"])
    assert relevance.candidates.tolist() == [0, 1, 3]
    assert [relevance.relevant_to(n).tolist() for n in range(4)] == [[0], [1], [0], [2]]


def test_chance_equals_the_mean_over_all_orders():
    relevance = Relevance.from_ids(["a", "a", "b", "c", "d"], ["1", "2", "3", "4", "3"])
    orders = list(itertools.permutations(range(4)))
    for k in (1, 2, 3, 10):
        hits = [
            any(candidate in order[:k] for candidate in relevance.relevant_to(query))
            for query in range(5)
            for order in orders
        ]
        assert chance_recall(relevance, k) == pytest.approx(np.mean(hits))


def test_content_ids_depend_on_the_input_and_not_on_padding():
    tokens = np.array([[2, 7, 3, 0], [2, 7, 3, 9], [2, 8, 3, 0]], np.int32)
    mask = np.array([[True, True, True, False]] * 3)
    text = content_ids(Text(tokens, mask, np.zeros_like(tokens), np.zeros_like(tokens)))
    assert text[0] == text[1] != text[2]
    assert len(set(content_ids(Audio(tokens.astype(np.float32), mask)))) == 2
    pixels = np.zeros((2, 2, 2, 1), np.float32)
    assert len(set(content_ids(Image(pixels, np.ones(2, bool))))) == 1


def test_interval_contains_the_mean_narrows_with_more_data_and_resamples_groups_together():
    hits = np.arange(400) % 4 == 0
    mean, low, high = interval_metrics("accuracy", hits).values()
    assert mean == 0.25 and low < mean < high
    # Binomial: 1.96 sqrt(p (1 - p) / n)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 * 0.75 / 400), rel=0.15)
    _, grouped_low, grouped_high = interval_metrics("accuracy", hits, np.arange(400) % 20).values()
    assert grouped_high - grouped_low > 2 * (high - low)
