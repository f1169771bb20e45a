"""LabelTransform: one class of a record, never guessed, cut or wrapped around."""

import numpy as np
import pytest

from mmjax import data

NAMES = ("a", "b", "c")


def decode(value, classes=NAMES):
    return data.LabelTransform("y", classes=classes).decode({"__key__": "k", "y": value})


@pytest.mark.parametrize(
    "value, classes, expected",
    [
        (2, NAMES, 2),
        (2.0, NAMES, 2),
        (np.int64(1), NAMES, 1),
        (np.array(1, np.uint8), NAMES, 1),
        (np.float32(1), NAMES, 1),
        (b"c\n", NAMES, 2),
        ("7", None, 7),
        (b" 7\n", None, 7),
        (2**31 - 1, None, 2**31 - 1),
    ],
)
def test_numbers_and_names_are_read(value, classes, expected):
    found = decode(value, classes)
    assert found == expected and found.dtype == np.int32 and found.shape == ()


@pytest.mark.parametrize("classes", [NAMES, None])
@pytest.mark.parametrize(
    "value",
    [
        -1, 2**31, 2**63, 10**400, -(10**400), 1e300, 0.5, float("nan"), float("inf"), True, np.True_,
        None, [1], [1, 2], {"a": 1}, np.array([1]), np.float32("nan"), np.array(None), 1j, "d", "1_0", "-1",
        "", "1.0", b"\xff", "9" * 10**6, "\udc80",
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_other_values_are_bad_examples(value, classes):
    with pytest.raises(data.BadExample, match="'y'") as caught:
        decode(value, classes)
    assert caught.value.key == "k" and len(str(caught.value)) < 320


def test_the_range_of_classes_is_named():
    for value in (3, "9"):
        with pytest.raises(data.BadExample, match=r"'y', found"):
            decode(value)
    with pytest.raises(data.BadExample, match="k: expected a class number from 0 to 2 in 'y', found 3"):
        decode(3)
