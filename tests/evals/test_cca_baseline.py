"""The CCA baseline on features with a known linear relation."""

import numpy as np
import pytest

from mmjax.evals.baseline import CCABaseline, RawFeatureSpace


def paired_features(num: int, related: bool = True, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Each modality is a fixed linear map of five latent variables of the example, plus noise.

    If not `related`, the second modality has latent variables of its own.
    """
    rng = np.random.default_rng(7)
    first, second = rng.normal(size=(5, 30)), rng.normal(size=(5, 20))
    rng = np.random.default_rng(seed)
    latent, unrelated = rng.normal(size=(num, 5)), rng.normal(size=(num, 5))
    noise = [0.1 * rng.normal(size=(num, width)) for width in (30, 20)]
    x, y = latent @ first + noise[0], (latent if related else unrelated) @ second + noise[1]
    return x.astype(np.float32), y.astype(np.float32)


def recall(related: bool, num: int = 400, present: np.ndarray | None = None) -> float:
    """R@1 among 40 new pairs after fitting on `num` pairs."""
    present = np.ones(num, bool) if present is None else present
    query, target = (RawFeatureSpace.fit(side, present) for side in paired_features(num, related))
    baseline = CCABaseline.fit(query, target)
    assert baseline is not None
    queries, targets = paired_features(40, seed=1)
    queries = baseline.project(baseline.query, query.project(queries))
    targets = baseline.project(baseline.target, target.project(targets))
    return float(((queries @ targets.T).argmax(1) == np.arange(40)).mean())


def test_it_finds_a_linear_relation_if_there_is_one():
    assert recall(related=True) > 0.9
    assert recall(related=False) < 0.2


def test_examples_that_lack_a_stream_are_not_used():
    present = np.arange(400) < 300
    assert recall(related=True, present=present) > 0.9
    two_examples = [RawFeatureSpace.fit(side, np.arange(400) < 2) for side in paired_features(400)]
    assert CCABaseline.fit(*two_examples) is None


def test_correlations_fall_and_stay_below_one():
    present = np.ones(400, bool)
    baseline = CCABaseline.fit(*(RawFeatureSpace.fit(side, present) for side in paired_features(400)))
    assert (np.diff(baseline.correlations) <= 1e-9).all()
    assert 0.8 < baseline.correlations[0] < 1 and baseline.correlations[6] < 0.5


@pytest.mark.parametrize("limit", [3, 50])
def test_only_the_first_examples_up_to_the_limit_are_used(limit):
    spaces = [RawFeatureSpace.fit(side, np.ones(400, bool)) for side in paired_features(400)]
    cut = [RawFeatureSpace(space.mean, space.vectors[:limit], space.present[:limit]) for space in spaces]
    limited, expected = CCABaseline.fit(*spaces, limit=limit), CCABaseline.fit(*cut)
    np.testing.assert_allclose(limited.correlations, expected.correlations)
