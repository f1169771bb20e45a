"""Baselines without a model are measured at the first evaluation of a process, and remembered."""

import dataclasses

import numpy as np
import pytest
from fakes import RandomEmbedder, dataset

from mmjax.errors import InputError
from mmjax.evals import Retrieval, baseline, once


@pytest.fixture
def calls(monkeypatch) -> list:
    """A list that grows with each call of `raw_features`."""
    found, raw_features = [], baseline.raw_features
    monkeypatch.setattr(baseline, "raw_features", lambda *args: found.append(1) or raw_features(*args))
    return found


def test_a_second_evaluation_reads_no_raw_features_and_has_equal_scores(calls):
    evaluation = Retrieval(data=dataset(), train=dataset(seed=1), heads=("image", "text"), batch_size=4)
    first = evaluation(RandomEmbedder()).metrics
    assert calls and "image->text/R@5/transfer" in first
    calls.clear()
    again = dataclasses.replace(evaluation)(RandomEmbedder())  # an equal value, as the loop makes it
    assert not calls and again.metrics == first
    other = dataclasses.replace(evaluation, train_limit=3)(RandomEmbedder())
    assert calls and other.metrics.keys() == first.keys()


def test_few_results_are_remembered(monkeypatch):
    monkeypatch.setattr(once, "MAX_REMEMBERED", 2)
    evaluation = Retrieval(data=dataset(), heads=("image", "text"))
    found = [once.once(evaluation, name, lambda name=name: name * 2) for name in "abca"]
    assert found == ["aa", "bb", "cc", "aa"]
    assert [once.is_known(evaluation, name) for name in "abc"] == [True, False, True]


def test_an_error_is_not_remembered():
    evaluation = Retrieval(data=dataset(), heads=("image", "text"))
    with pytest.raises(InputError):
        once.once(evaluation, "x", lambda: (_ for _ in ()).throw(InputError("no data")))
    assert np.isclose(once.once(evaluation, "x", lambda: 1.5), 1.5)


def test_the_limit_of_bad_examples_is_the_evaluations(caplog):
    examples = dataset()
    *records, last = examples.source.records
    source = dataclasses.replace(examples.source, records=(*records, last | {"text": "  "}))
    evaluation = Retrieval(
        data=dataclasses.replace(examples, source=source), heads=("image", "text"), batch_size=4
    )
    with pytest.raises(InputError, match="expected at most 1.00% bad examples"):
        list(evaluation.batches())
    list(dataclasses.replace(evaluation, max_bad_fraction=0.5).batches())
    assert caplog.text.count("skipped 1 of 7 examples") == 1
