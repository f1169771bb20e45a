"""Next-sentence and matching accuracy with predictors whose answers are known."""

import numpy as np
import pytest
from fakes import dataset

from mmjax import views
from mmjax.errors import InputError
from mmjax.evals import Matching, NextSentence


def scripted(head, outputs, targets, name):
    """The same valid rows and answers in each batch; notes the seeds that it was given."""

    def predictor(batch, view, heads, seed=0):
        predictor.seeds.append(seed)
        return {head: outputs}, {name: targets[0], "valid": targets[1]}

    predictor.seeds = []
    return predictor


def test_next_sentence_counts_only_valid_pairs():
    logits = np.array([[2, 1], [1, 2], [0, 3], [9, 0]], np.float32)  # says 0 1 1 0
    is_next, valid = np.array([False, True, False, True]), np.array([True, True, True, False])
    predictor = scripted("follows", logits, (is_next, valid), "is_next")
    evaluation = NextSentence(data=dataset(), view=views.SentencePairs("text", "text"), batch_size=4)
    metrics = evaluation(predictor).metrics
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["accuracy/majority"] == pytest.approx(2 / 3)
    assert metrics["num_pairs"] == 6 and predictor.seeds == [0, 1]


def test_matching_counts_only_valid_pairs_and_balances_the_kinds():
    logits = np.array([1, -1, 1, -2, -3, 5], np.float32)
    matches = np.array([True, True, False, False, False, False])
    valid = np.array([True, True, True, True, True, False])
    evaluation = Matching(data=dataset(), view=views.HardNegatives("image", "text", heads=("image", "text")))
    metrics = evaluation(scripted("matches", logits, (matches, valid), "matches")).metrics
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["accuracy/majority"] == pytest.approx(3 / 5)
    assert metrics["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert evaluation.required_heads() == ("matches", "image", "text")


def test_no_pair_at_all_is_refused():
    with pytest.raises(InputError, match="needs the streams"):
        NextSentence(data=dataset(), view=views.SentencePairs("text", "keywords"))
    nothing = scripted("follows", np.zeros((4, 2)), (np.zeros(4, bool), np.zeros(4, bool)), "is_next")
    with pytest.raises(InputError, match="no example has both"):
        NextSentence(data=dataset(), view=views.SentencePairs("text", "text"), batch_size=4)(nothing)
