"""Which streams the records of a dataset have: samples, the search for rare ones, and its bound."""

import logging

import numpy as np
import pytest

from mmjax import data
from mmjax.data import presence
from mmjax.errors import InputError


def with_label_at(*indices: int, num: int = 1000) -> data.Dataset:
    """Records with a number, of which those at `indices` have a label."""
    labels = [1 if index in indices else None for index in range(num)]
    source = data.Arrays({"number": np.arange(num), "label": labels})
    streams = {
        "number": data.LabelTransform("number"),
        "label": data.LabelTransform("label", optional=True),
    }
    return data.Dataset(source, streams)


def test_a_sample_is_evenly_spaced_and_counts_each_stream():
    found = data.sample_presence(with_label_at(*range(500)))
    assert (found.num_records, found.num_sampled, found.counts["number"]) == (1000, 256, 256)
    assert found.counts["label"] == 128
    assert "null" in found.missing["label"] and "number" not in found.missing


def test_a_rare_stream_is_found_and_an_absent_one_is_refused():
    data.refuse_absent_streams(with_label_at(501), "it")
    with pytest.raises(InputError, match="no record of it has the stream 'label': expected a value"):
        data.refuse_absent_streams(with_label_at(), "it")


def test_a_long_search_ends_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(presence, "SEARCH_SECONDS", -1.0)
    with caplog.at_level(logging.WARNING):
        data.refuse_absent_streams(with_label_at(), "it")
    assert "none of the first 0 of 1000 records of it has the streams ['label']" in caplog.text


def test_a_slow_sample_ends_early(monkeypatch):
    monkeypatch.setattr(presence, "SAMPLE_SECONDS", -1.0)
    assert data.sample_presence(with_label_at(1)).num_sampled == 1


def test_a_bad_record_does_not_count_as_one_that_lacks_a_stream():
    """The value is there, and bad: the share of bad examples judges it."""
    dataset = data.Dataset(data.Arrays({"label": [-1, -2]}), {"label": data.LabelTransform("label")})
    assert data.sample_presence(dataset).counts == {"label": 2}
