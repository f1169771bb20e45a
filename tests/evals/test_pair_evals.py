"""Next-sentence and matching accuracy with scripted predictions."""

import numpy as np
import pytest
from fakes import dataset

from mmjax import views
from mmjax.errors import InputError
from mmjax.evals import Matching, NextSentence


def scripted_predictor(head, logits, targets):
    """Returns the same logits and targets for each batch, and records the seeds."""

    def predictor(batch, view, heads, seed=0):
        predictor.seeds.append(seed)
        return {head: logits}, targets

    predictor.seeds = []
    return predictor


def test_next_sentence_counts_only_valid_pairs():
    logits = np.array([[2, 1], [1, 2], [0, 3], [9, 0]], np.float32)  # predicts 0 1 1 0
    is_next, valid = np.array([False, True, False, True]), np.array([True, True, True, False])
    predictor = scripted_predictor("follows", logits, {"is_next": is_next, "valid": valid})
    evaluation = NextSentence(data=dataset(), view=views.SentencePairs("text", "text"), batch_size=4)
    metrics = evaluation(predictor).metrics
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["accuracy/majority"] == pytest.approx(2 / 3)
    assert metrics["num_pairs"] == 6 and predictor.seeds == [0, 1]


def test_matching_counts_only_valid_pairs_and_balances_true_and_wrong_pairs():
    logits = np.array([1, -1, 1, -2, -3, 5], np.float32)
    matches = np.array([True, True, False, False, False, False])
    valid = np.array([True, True, True, True, True, False])
    evaluation = Matching(data=dataset(), view=views.HardNegatives("image", "text", heads=("image", "text")))
    predictor = scripted_predictor("matches", logits, {"matches": matches, "valid": valid})
    metrics = evaluation(predictor).metrics
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["accuracy/majority"] == pytest.approx(3 / 5)
    assert metrics["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert evaluation.required_heads() == ("matches", "image", "text")


def test_data_without_a_pair_are_refused():
    with pytest.raises(InputError, match="needs the streams"):
        NextSentence(data=dataset(), view=views.SentencePairs("text", "keywords"))
    no_pairs = {"is_next": np.zeros(4, bool), "valid": np.zeros(4, bool)}
    with pytest.raises(InputError, match="no example has both"):
        evaluation = NextSentence(data=dataset(), view=views.SentencePairs("text", "text"), batch_size=4)
        evaluation(scripted_predictor("follows", np.zeros((4, 2)), no_pairs))
