"""The baseline of canonical correlations, on features whose relation is known."""

import numpy as np
import pytest

from mmjax.evals.baseline import CCABaseline, RawFeatureSpace


def sides(num: int, related: bool = True, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Five hidden numbers an example, seen by each modality through a mixing of its own, among noise."""
    mixing = np.random.default_rng(7)
    first, second = mixing.normal(size=(5, 30)), mixing.normal(size=(5, 20))
    rng = np.random.default_rng(seed)
    hidden, other = rng.normal(size=(num, 5)), rng.normal(size=(num, 5))
    noise = [0.1 * rng.normal(size=(num, width)) for width in (30, 20)]
    x, y = hidden @ first + noise[0], (hidden if related else other) @ second + noise[1]
    return x.astype(np.float32), y.astype(np.float32)


def recall(related: bool, known: int = 400, present: np.ndarray | None = None) -> float:
    """R@1 among 40 new pairs."""
    there = np.ones(known, bool) if present is None else present
    spaces = [RawFeatureSpace.of(side, there) for side in sides(known, related)]
    correlated = CCABaseline.of(*spaces)
    assert correlated is not None
    new = [space.place(side) for space, side in zip(spaces, sides(40, seed=1), strict=True)]
    found = correlated.places("query", new[0]) @ correlated.places("target", new[1]).T
    return float((found.argmax(1) == np.arange(40)).mean())


def test_it_finds_a_linear_relation_and_only_where_there_is_one():
    assert recall(related=True) > 0.9
    assert recall(related=False) < 0.2


def test_examples_that_miss_a_side_are_not_used():
    present = np.arange(400) < 300
    assert recall(related=True, present=present) > 0.9
    few = [RawFeatureSpace.of(side, np.arange(400) < 2) for side in sides(400)]
    assert CCABaseline.of(*few) is None


def test_correlations_fall_and_stay_below_one():
    there = np.ones(400, bool)
    correlated = CCABaseline.of(*(RawFeatureSpace.of(side, there) for side in sides(400)))
    assert (np.diff(correlated.correlations) <= 1e-9).all()
    assert 0.8 < correlated.correlations[0] < 1 and correlated.correlations[6] < 0.5


@pytest.mark.parametrize("limit", [3, 50])
def test_a_limit_is_kept(limit):
    spaces = [RawFeatureSpace.of(side, np.ones(400, bool)) for side in sides(400)]
    few = [RawFeatureSpace(space.mean, space.units[:limit], space.present[:limit]) for space in spaces]
    one, two = CCABaseline.of(*spaces, limit=limit), CCABaseline.of(*few)
    np.testing.assert_allclose(one.correlations, two.correlations)
