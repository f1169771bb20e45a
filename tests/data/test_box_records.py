"""BoxesTransform: formats, padding, bad boxes."""

import numpy as np
import pytest

from mmjax.data import BadExample, BoxesTransform
from mmjax.errors import InputError

CELLS = BoxesTransform("json.boxes", labels="json.labels", classes=("red", "white"), max_boxes=3)


def record(boxes, labels=("white", "red")) -> dict:
    return {"__key__": "a", "json": {"boxes": boxes, "labels": labels if labels == "red" else list(labels)}}


@pytest.mark.parametrize(
    "format, boxes",
    [
        ("xywh", [[0.1, 0.2, 0.4, 0.2], [0.0, 0.0, 1.0, 1.0]]),
        ("xyxy", [[0.1, 0.2, 0.5, 0.4], [0.0, 0.0, 1.0, 1.0]]),
        ("cxcywh", [[0.3, 0.3, 0.4, 0.2], [0.5, 0.5, 1.0, 1.0]]),
    ],
)
def test_boxes_become_centre_and_size_with_padding(format, boxes):
    transform = BoxesTransform(
        "json.boxes", labels="json.labels", classes=("red", "white"), max_boxes=3, format=format
    )
    targets = transform.augment(transform.decode(record(boxes)), None)
    np.testing.assert_allclose(
        targets.boxes, [[0.3, 0.3, 0.4, 0.2], [0.5, 0.5, 1, 1], [0, 0, 0, 0]], atol=1e-6
    )
    np.testing.assert_array_equal(targets.classes, [1, 0, 0])
    np.testing.assert_array_equal(targets.mask, [True, True, False])
    empty = transform.empty()
    assert not empty.mask.any() and empty.boxes.shape == targets.boxes.shape
    assert empty.boxes.dtype == targets.boxes.dtype and empty.classes.dtype == targets.classes.dtype


def test_an_image_without_objects_has_no_box():
    targets = CELLS.augment(CELLS.decode(record([], ())), None)
    assert targets.boxes.shape == (3, 4) and not targets.mask.any()


GOOD = [0.1, 0.1, 0.2, 0.2]


@pytest.mark.parametrize(
    "boxes, labels, message",
    [
        ([GOOD] * 4, ["red"] * 4, "expected max_boxes=3 or fewer in 'json.boxes', found 4 boxes"),
        ([GOOD], ["red", "red"], "expected as many 'json.labels' as boxes, found 2 and 1"),
        ([GOOD], ["green"], r"expected classes among \['red', 'white'\] in 'json.labels', found \['green'\]"),
        ([[1, 2, 3]], ["red"], "expected a list of boxes of four numbers in 'json.boxes'"),
        ([[10, 20, 30, 40]], ["red"], "expected boxes inside the image, in fractions .* format='xywh'"),
        ([[0.1, 0.1, 0, 0.2]], ["red"], "expected boxes inside the image"),
        ([GOOD, [0.7, 0.1, 0.8, 0.2]], ["red"] * 2, r"found \[0.7, 0.1, 0.8, 0.2\] as box 1"),
        ([[0.1, 0.1, np.nan, 0.2]], ["red"], "expected boxes inside the image"),
        ([[0.1, 0.1, 1e300, 0.2]], ["red"], "expected boxes inside the image"),
        ([GOOD * 2], ["red"] * 2, "expected a list of boxes of four numbers in 'json.boxes'"),
        (GOOD, ["red"], "expected a list of boxes of four numbers"),
        ([GOOD, [0.1]], ["red"] * 2, "expected a list of boxes of four numbers"),
        ([["0.1", "0.1", "0.2", "0.2"]], ["red"], "expected a list of boxes of four numbers"),
        ([[True, False, True, True]], ["red"], "expected a list of boxes of four numbers"),
        ({"a": 1}, ["red"], "expected a list of boxes of four numbers"),
        ([GOOD] * 3, "red", "expected a list of classes in 'json.labels', found 'red'"),
        ([GOOD], [["red"]], r"expected classes among .* found \[\['red'\]\]"),
        ([GOOD] * 100_000, ["red"] * 100_000, "max_boxes=3 or fewer in 'json.boxes', found 100000 boxes"),
    ],
)
def test_invalid_boxes_are_bad_examples(boxes, labels, message):
    with pytest.raises(BadExample, match=message):
        CELLS.decode(record(boxes, labels))


def test_an_unknown_format_is_refused():
    with pytest.raises(InputError, match=r"BoxesTransform.format' expects .*, found str 'polar'"):
        BoxesTransform("a", labels="b", classes=("red",), max_boxes=3, format="polar")  # type: ignore[arg-type]
