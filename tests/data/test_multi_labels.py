"""MultiLabelTransform: any number of classes per record."""

import numpy as np
import pytest

from mmjax import data
from mmjax.data import BadExample, MissingField, MultiLabelTransform
from mmjax.errors import InputError

CLASSES = ("red cell", "white cell", "platelet")


def decode(value, **options):
    return MultiLabelTransform("json.cells", CLASSES, **options).decode(
        {"__key__": "7", "json": {"cells": value}}
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["platelet", "red cell", "platelet"], [1, 0, 1]),
        ([1], [0, 1, 0]),
        ([], [0, 0, 0]),
        (np.array([0, 2]), [1, 0, 1]),
        (np.array([False, True, True]), [0, 1, 1]),
    ],
)
def test_names_indices_and_bools_are_read(value, expected):
    np.testing.assert_array_equal(decode(value), np.array(expected, bool))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            ["blast"],
            r"7: expected classes among \['red cell', .*\] in 'json.cells', or numbers from 0 to 2, found '",
        ),
        ([3], "found 3"),
        ([True], "found True"),
        ([-1], "found -1"),
        ([10**400], "found 1000000"),
        ([["platelet"]], r"found \['platelet'\]"),
        (np.zeros((2, 2), int), "expected a list of classes in 'json.cells'"),
        (np.array(2), "expected a list of classes in 'json.cells'"),
        ({"platelet": 1}, "expected a list of classes in 'json.cells'"),
        (["x\n" * 10**6], r"found 'x.nx"),
        ([0.5], "found 0.5"),
        ("platelet", "expected a list of classes in 'json.cells', found 'platelet'"),
        (np.array([True]), r"expected 3 bools in 'json.cells', found the shape \[1\]"),
    ],
)
def test_other_values_are_bad_examples(value, message):
    with pytest.raises(BadExample, match=message):
        decode(value)


def test_skip_unknown_ignores_other_names():
    np.testing.assert_array_equal(decode(["blast", "platelet"], skip_unknown=True), [0, 0, 1])
    np.testing.assert_array_equal(decode(["blast"], skip_unknown=True), [0, 0, 0])
    with pytest.raises(BadExample, match="found 3"):
        decode([3], skip_unknown=True)


def test_a_record_without_the_field_has_a_mask_of_false():
    transform = MultiLabelTransform("cells", CLASSES, optional=True)
    with pytest.raises(MissingField):
        transform.decode({"__key__": "7"})
    source = data.Arrays({"cells": [["platelet"], []]})
    dataset = data.Dataset(source, {"cells": transform})
    batch = data.collate([dataset.open().example(0), dataset.open().example(1), {}], dataset.empty())
    np.testing.assert_array_equal(batch["cells"].values, [[0, 0, 1], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(batch["cells"].mask, [[1, 1, 1], [1, 1, 1], [0, 0, 0]])


def test_repeated_classes_are_refused():
    with pytest.raises(InputError, match="names of the classes, each once"):
        MultiLabelTransform("cells", ("a", "a"))
