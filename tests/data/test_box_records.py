"""Boxes of a record: forms, filling up, and what is refused."""

import numpy as np
import pytest

from mmjax.data import BadExample, BoxesTransform
from mmjax.errors import InputError

CELLS = BoxesTransform("json.boxes", labels="json.labels", classes=("red", "white"), most=3)


def record(boxes, labels=("white", "red")) -> dict:
    return {"__key__": "a", "json": {"boxes": boxes, "labels": list(labels)}}


@pytest.mark.parametrize(
    "form, boxes",
    [
        ("left_top_size", [[0.1, 0.2, 0.4, 0.2], [0.0, 0.0, 1.0, 1.0]]),
        ("corners", [[0.1, 0.2, 0.5, 0.4], [0.0, 0.0, 1.0, 1.0]]),
        ("centre_size", [[0.3, 0.3, 0.4, 0.2], [0.5, 0.5, 1.0, 1.0]]),
    ],
)
def test_boxes_are_centre_and_size_filled_up(form, boxes):
    transform = BoxesTransform(
        "json.boxes", labels="json.labels", classes=("red", "white"), most=3, form=form
    )
    made = transform.augment(transform.decode(record(boxes)), None)
    np.testing.assert_allclose(made.boxes, [[0.3, 0.3, 0.4, 0.2], [0.5, 0.5, 1, 1], [0, 0, 0, 0]], atol=1e-6)
    np.testing.assert_array_equal(made.classes, [1, 0, 0])
    np.testing.assert_array_equal(made.mask, [True, True, False])
    empty = transform.empty()
    assert not empty.mask.any() and empty.boxes.shape == made.boxes.shape
    assert empty.boxes.dtype == made.boxes.dtype and empty.classes.dtype == made.classes.dtype


def test_a_picture_without_objects_has_no_box():
    made = CELLS.augment(CELLS.decode(record([], ())), None)
    assert made.boxes.shape == (3, 4) and not made.mask.any()


GOOD = [0.1, 0.1, 0.2, 0.2]


@pytest.mark.parametrize(
    "boxes, labels, message",
    [
        ([GOOD] * 4, ["red"] * 4, "expected at most 3 boxes .most., found 4"),
        ([GOOD], ["red", "red"], "expected as many 'json.labels' as boxes, found 2 and 1"),
        ([GOOD], ["green"], r"expected classes among \['red', 'white'\] in 'json.labels', found \['green'\]"),
        ([[1, 2, 3]], ["red"], "expected four numbers a box in 'json.boxes'"),
        ([[10, 20, 30, 40]], ["red"], "expected boxes in shares of the picture .left_top_size."),
        ([[0.1, 0.1, 0, 0.2]], ["red"], "expected boxes in shares of the picture"),
    ],
)
def test_what_are_no_boxes_is_a_bad_example(boxes, labels, message):
    with pytest.raises(BadExample, match=message):
        CELLS.decode(record(boxes, labels))


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match=r"form of boxes among \['left_top_size', .*\], found 'polar'"):
        BoxesTransform("a", labels="b", classes=("red",), most=3, form="polar")  # type: ignore[arg-type]
