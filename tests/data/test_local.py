"""data.local: the folder of the data sets."""

import pytest

from mmjax import data


def test_mmjax_data_names_the_folder(monkeypatch):
    monkeypatch.setenv("MMJAX_DATA", "/data")
    assert data.local("avdigits").path("train.tar") == "/data/avdigits/train.tar"


@pytest.mark.parametrize("value", [None, ""])
def test_the_default_folder_is_beside_the_checkout(monkeypatch, value):
    monkeypatch.delenv("MMJAX_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("MMJAX_DATA", value)
    assert data.local("avdigits").path("train.tar").endswith("/shared/data/avdigits/train.tar")
