"""Mixtures: proportions, streams, shapes. Datasets and their cache, and collation."""

import jax
import numpy as np
import pytest

from mmjax import data
from mmjax.batch import Labels, is_present
from mmjax.errors import InputError


def labels(values=(0, 1, 2), cache=False, **streams):
    streams = streams or {"label": data.LabelTransform("y")}
    return data.Dataset(data.Arrays({"y": list(values)}), streams, cache=cache)


@pytest.mark.parametrize("weights", [(1.0,), (0.7, 0.3), (1, 2, 3), (0.98, 0.01, 0.01), (1e-3, 5.0)])
def test_rows_are_assigned_in_proportion_and_positions_have_no_gap(weights):
    mixture = data.Mixture({str(i): (w, labels()) for i, w in enumerate(weights)}, batch_size=8)
    rows = np.arange(5000)
    dataset, position = mixture.assign(rows)
    for number, weight in enumerate(weights):
        positions = position[dataset == number]
        np.testing.assert_array_equal(positions, np.arange(positions.size))  # each once, in order
        fraction = weight / sum(weights)
        num_assigned = np.cumsum(dataset == number)
        assert np.abs(num_assigned - fraction * (rows + 1)).max() <= len(weights)
    assert (
        list(mixture.num_rows(600).values()) == np.bincount(dataset[:4800], minlength=len(weights)).tolist()
    )
    # A pure function of the row: a part of the rows has the same assignment.
    np.testing.assert_array_equal(
        np.stack(mixture.assign(rows[3000:3010])), np.stack([dataset, position])[:, 3000:3010]
    )


def test_positions_are_exact_after_1e17_rows():
    mixture = data.Mixture({"a": (1.0, labels()), "b": (2.0, labels())}, batch_size=8)
    dataset, position = mixture.assign(np.arange(10**17, 10**17 + 300))
    for number, fraction in ((0, 1 / 3), (1, 2 / 3)):
        assert (np.diff(position[dataset == number]) == 1).all()
        assert abs(position[dataset == number][0] / 10**17 - fraction) < 1e-6


def test_streams_are_the_union_and_spec_reads_no_data():
    image = data.ImageTransform("png", (4, 4))
    missing = data.WebDataset("/no/such/folder")
    mixture = data.Mixture(
        {
            "a": (1.0, data.Dataset(missing, {"image": image})),
            "b": (
                1.0,
                data.Dataset(missing, {"image": image, "audio": data.AudioTransform("ogg", 100, 1.0)}),
            ),
        },
        batch_size=6,
    )
    assert set(mixture.streams()) == {"image", "audio"}
    assert mixture.spec()["image"].pixels == jax.ShapeDtypeStruct((6, 4, 4, 3), np.float32)
    assert mixture.spec(2)["audio"].mask == jax.ShapeDtypeStruct((2, 100), np.bool_)


def test_conflicting_shapes_are_refused():
    big, small = (labels(image=data.ImageTransform("png", size)) for size in ((4, 4), (2, 2)))
    with pytest.raises(InputError) as caught:
        data.Mixture({"a": (1.0, big), "b": (1.0, small)}, batch_size=2).streams()
    message = str(caught.value)
    assert "expected one shape for the stream 'image'" in message
    assert "float32[4, 4, 3]" in message and "in dataset 'a'" in message and "float32[2, 2, 3]" in message


@pytest.mark.parametrize(
    "datasets, size, message",
    [
        ({}, 2, "expected at least one dataset"),
        ({"a": (0.0, labels())}, 2, "'Mixture.datasets.a.0' expects float above 0, finite, found float 0.0"),
        ({"a": (float("nan"), labels())}, 2, "found float nan"),
        ({"a": (1.0, labels())}, 0, "'Mixture.batch_size' expects int from 1 to 1,048,576, found int 0"),
    ],
)
def test_invalid_mixtures_are_refused(datasets, size, message):
    with pytest.raises(InputError, match=message):
        data.Mixture(datasets, batch_size=size)


def test_collate_fills_in_missing_streams():
    blank = {"label": data.LabelTransform("y").empty()}
    batch = data.collate([{"label": Labels(np.int32(5), np.asarray(True))}, {}], blank)
    assert batch["label"].values.tolist() == [5, 0] and is_present(batch["label"]).tolist() == [True, False]


def test_only_optional_streams_may_be_missing():
    optional = labels(
        (0, 1), label=data.LabelTransform("y"), other=data.LabelTransform("z", optional=True)
    ).open()
    assert set(optional.example(0)) == {"label"}
    required = labels((0, 1), other=data.LabelTransform("z")).open()
    with pytest.raises(data.BadExample, match=r"arrays\[1\]: expected the field 'z', found only \['y'\]"):
        required.example(1)


def test_a_bad_value_of_an_optional_stream_is_a_bad_example():
    with pytest.raises(data.BadExample, match="found -1"):
        labels((-1,), label=data.LabelTransform("y", optional=True)).open().example(0)


class CountingLabels(data.LabelTransform):
    calls: list[int] = []

    def decode(self, record):
        self.calls.append(1)
        return super().decode(record)


@pytest.mark.parametrize("cache, calls", [(False, 6), (True, 3)])
def test_the_cache_decodes_each_record_once_even_bad_ones(cache, calls):
    CountingLabels.calls.clear()
    opened = labels((4, -1, 5), cache=cache, label=CountingLabels("y")).open()
    for _ in range(2):
        assert opened.example(0)["label"].values == 4 and opened.example(2)["label"].values == 5
        with pytest.raises(data.BadExample, match="found -1"):
            opened.example(1)
    assert len(CountingLabels.calls) == calls


def test_equal_datasets_share_their_cache():
    source = data.Arrays({"y": [1]})
    first, second = (data.Dataset(source, {"label": data.LabelTransform("y")}, cache=True) for _ in range(2))
    assert first.open() is second.open()
