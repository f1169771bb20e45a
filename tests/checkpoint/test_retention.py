"""Which checkpoints stay: the newest, every so often, the best, and where a rollback must find one."""

import math

import jax.numpy as jnp
import pytest

from mmjax.checkpoint.manager import Checkpoints
from mmjax.checkpoint.retention import Retention

STEPS = [100, 200, 250, 300, 400, 450]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, {400, 450}),
        ({"last": 1}, {450}),
        ({"last": 9}, set(STEPS)),
        ({"every": 200}, {200, 400, 450}),
        ({"last": 1, "newest_multiple_of": 100}, {400, 450}),
        ({"last": 1, "newest_multiple_of": 1000}, {450}),
    ],
)
def test_newest_and_every_so_often(fields, kept):
    assert Retention(**fields)(STEPS) == kept
    assert Retention(**fields)(reversed(STEPS)) == kept, "in whatever order they are found"


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ({100: 0.1, 200: 0.9, 300: 0.3}, "max", 200),
        ({100: 0.1, 200: 0.9, 300: 0.3}, "min", 100),
        ({100: 0.5, 200: 0.5, 300: 0.5}, "max", 300),  # of equals, the newest: it has seen more
        ({100: 0.5, 200: 0.5, 300: 0.5}, "min", 300),
        ({100: 0.1, 150: 0.9}, "max", 100),  # step 150 was never saved, or is gone
        ({100: math.nan, 200: 0.1, 300: 0.05}, "max", 200),
        ({100: math.nan, 200: 0.1, 300: 0.05}, "min", 300),
    ],
)
def test_best_by_a_metric(scores, mode, best):
    assert Retention(last=1, scores=lambda: scores, mode=mode)(STEPS) == {best, 450}


def test_without_scores_yet_there_is_no_best():
    assert Retention(last=1, scores=dict)(STEPS) == {450}
    assert Retention()([]) == set()


def test_the_best_is_let_go_once_there_is_a_better_one_and_a_new_process_still_knows_it(tmp_path):
    scores = {}
    keep = Retention(last=1, every=4, scores=lambda: scores)
    states = {step: {"x": jnp.full(3, step)} for step in range(1, 8)}
    seen = {}
    for steps in ((1, 2, 3), (4, 5, 6, 7)):  # two processes, one after the other
        checkpoints = Checkpoints(tmp_path / "checkpoints", keep=keep)
        for step in steps:
            checkpoints.save(step, states[step])
            checkpoints.wait()
            seen[step] = checkpoints.steps()
            if step in (2, 6):
                scores[step] = step / 10
        checkpoints.close()
    assert seen == {1: [1], 2: [2], 3: [2, 3], 4: [2, 4], 5: [2, 4, 5], 6: [2, 4, 6], 7: [4, 6, 7]}
