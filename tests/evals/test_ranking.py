"""Ranks, recall and chance against plain loops over queries and candidates."""

import itertools

import numpy as np
import pytest
from fakes import unit

from mmjax.batch import Audio, Image, Text
from mmjax.evals.base import accuracy_with_interval
from mmjax.evals.ranking import Relevance, chance, content_ids, ranks


def loop_ranks(queries, targets, query_ids, target_ids):
    found = []
    for i in range(len(queries)):
        right, wrong = [], {}
        for j in range(len(targets)):
            alike = any(
                query_ids[k] == query_ids[i] and target_ids[k] == target_ids[j] for k in range(len(queries))
            )
            score = float(queries[i] @ targets[j])
            if alike:
                right.append(score)
            else:
                wrong[target_ids[j]] = score  # identical candidates have identical scores, and count once
        found.append(1 + sum(score >= max(right) for score in wrong.values()))
    return found


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_ranks_equal_a_loop_also_with_identical_items(chunk):
    rng = np.random.default_rng(0)
    query_ids = rng.integers(0, 9, 24).astype(str).tolist()
    target_ids = rng.integers(0, 12, 24).astype(str).tolist()
    table = unit(rng.normal(size=(12, 4)))
    targets = table[[int(name) for name in target_ids]]
    queries = unit(rng.normal(size=(9, 4)))[[int(name) for name in query_ids]]
    found = ranks(queries, targets, Relevance.of(query_ids, target_ids), chunk)
    assert found.tolist() == loop_ranks(queries, targets, query_ids, target_ids)
    assert len(set(found.tolist())) > 3, "the case is too easy to tell anything"


def test_a_model_that_maps_everything_onto_one_point_gets_nothing_right():
    same = unit(np.ones((6, 3)))
    ids = [str(n) for n in range(6)]
    assert ranks(same, same, Relevance.of(ids, ids)).tolist() == [6] * 6


def test_candidates_keep_the_order_of_the_data():
    answers = Relevance.of(["z", "y", "x", "w"], ["d", "c", "d", "a"])
    assert answers.candidates.tolist() == [0, 1, 3]
    assert [answers.of_query(n).tolist() for n in range(4)] == [[0], [1], [0], [2]]


def test_chance_equals_the_mean_over_all_orders():
    answers = Relevance.of(["a", "a", "b", "c", "d"], ["1", "2", "3", "4", "3"])
    orders = list(itertools.permutations(range(4)))
    for k in (1, 2, 3, 10):
        hits = [
            any(place in order[:k] for place in answers.of_query(query))
            for query in range(5)
            for order in orders
        ]
        assert chance(answers, k) == pytest.approx(np.mean(hits))


def test_identities_see_the_input_and_not_its_padding():
    tokens = np.array([[2, 7, 3, 0], [2, 7, 3, 9], [2, 8, 3, 0]], np.int32)
    mask = np.array([[True, True, True, False]] * 3)
    text = content_ids(Text(tokens, mask, np.zeros_like(tokens), np.zeros_like(tokens)))
    assert text[0] == text[1] != text[2]
    assert len(set(content_ids(Audio(tokens.astype(np.float32), mask)))) == 2
    pixels = np.zeros((2, 2, 2, 1), np.float32)
    assert len(set(content_ids(Image(pixels, np.ones(2, bool))))) == 1


def test_interval_contains_the_mean_narrows_with_more_data_and_resamples_groups_together():
    hits = np.arange(400) % 4 == 0
    mean, low, high = accuracy_with_interval(hits)
    assert mean == 0.25 and low < mean < high
    # Binomial: 1.96 sqrt(p (1 - p) / n)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 * 0.75 / 400), rel=0.15)
    _, grouped_low, grouped_high = accuracy_with_interval(hits, np.arange(400) % 20)
    assert grouped_high - grouped_low > 2 * (high - low)
