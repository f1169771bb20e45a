"""RetentionPolicy keeps the newest checkpoints, periodic ones, the best, and the target of a rollback."""

import math

import jax.numpy as jnp
import pytest

from mmjax.checkpoint.manager import Checkpoints
from mmjax.checkpoint.retention import RetentionPolicy

STEPS = [100, 200, 250, 300, 400, 450]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, {400, 450}),
        ({"max_to_keep": 1}, {450}),
        ({"max_to_keep": 9}, set(STEPS)),
        ({"keep_every": 200}, {200, 400, 450}),
        ({"max_to_keep": 1, "newest_multiple_of": 100}, {400, 450}),
        ({"max_to_keep": 1, "newest_multiple_of": 1000}, {450}),
    ],
)
def test_keeps_newest_and_periodic_checkpoints(fields, kept):
    assert RetentionPolicy(**fields)(STEPS) == kept
    assert RetentionPolicy(**fields)(reversed(STEPS)) == kept, "the order of the steps does not matter"


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ({100: 0.1, 200: 0.9, 300: 0.3}, "max", 200),
        ({100: 0.1, 200: 0.9, 300: 0.3}, "min", 100),
        ({100: 0.5, 200: 0.5, 300: 0.5}, "max", 300),  # on a tie, the newest
        ({100: 0.5, 200: 0.5, 300: 0.5}, "min", 300),
        ({100: 0.1, 150: 0.9}, "max", 100),  # step 150 does not exist
        ({100: math.nan, 200: 0.1, 300: 0.05}, "max", 200),
        ({100: math.nan, 200: 0.1, 300: 0.05}, "min", 300),
    ],
)
def test_keeps_the_best_by_a_metric(scores, mode, best):
    assert RetentionPolicy(max_to_keep=1, scores=lambda: scores, best_mode=mode)(STEPS) == {best, 450}


def test_without_scores_keeps_only_the_newest():
    assert RetentionPolicy(max_to_keep=1, scores=dict)(STEPS) == {450}
    assert RetentionPolicy()([]) == set()


def test_deletes_the_best_when_a_better_one_is_saved_and_remembers_it_across_processes(tmp_path):
    scores = {}
    retention = RetentionPolicy(max_to_keep=1, keep_every=4, scores=lambda: scores)
    states = {step: {"x": jnp.full(3, step)} for step in range(1, 8)}
    steps_after = {}
    for steps in ((1, 2, 3), (4, 5, 6, 7)):  # two processes, one after the other
        checkpoints = Checkpoints(tmp_path / "checkpoints", retention=retention)
        for step in steps:
            checkpoints.save(step, states[step])
            checkpoints.wait()
            steps_after[step] = checkpoints.steps()
            if step in (2, 6):
                scores[step] = step / 10
        checkpoints.close()
    assert steps_after == {1: [1], 2: [2], 3: [2, 3], 4: [2, 4], 5: [2, 4, 5], 6: [2, 4, 6], 7: [4, 6, 7]}
