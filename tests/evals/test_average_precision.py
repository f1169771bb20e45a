"""Average precision on cases worked out by hand, and the evaluation on a model that answers as told."""

import dataclasses

import numpy as np
import pytest
from fakes import Records

from mmjax import data, evals
from mmjax.errors import InputError
from mmjax.evals.precision import Detections, average_precision, iou

A, B, C = [0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.2, 0.7, 0.2, 0.2]
NEAR_A = [0.21, 0.2, 0.2, 0.2]  # IoU .90


def found(*claims) -> Detections:
    """Of (picture, box, class, score)."""
    picture, boxes, classes, scores = zip(*claims, strict=True)
    return Detections(np.array(picture), np.array(boxes, float), np.array(classes), np.array(scores, float))


def truth(*objects) -> Detections:
    return found(*[(*each, 1.0) for each in objects])


@pytest.mark.parametrize(
    "claims, objects, expected",
    [
        ([(0, A, 0, 0.9)], [(0, A, 0)], 1.0),
        ([(0, A, 0, 0.9)], [(0, A, 0), (0, B, 0)], 0.5),  # one of two
        ([(0, B, 0, 0.9), (0, A, 0, 0.5)], [(0, A, 0)], 0.5),  # a wrong one comes first
        ([(0, A, 0, 0.9), (0, B, 0, 0.5)], [(0, A, 0)], 1.0),  # a wrong one comes last
        # Twice the same.
        ([(0, A, 0, 0.9), (0, NEAR_A, 0, 0.8), (0, B, 0, 0.7)], [(0, A, 0), (0, B, 0)], (1 + 2 / 3) / 2),
        ([(1, A, 0, 0.9)], [(0, A, 0)], 0.0),  # in another picture
        ([(0, A, 1, 0.9)], [(0, A, 0)], 0.0),  # of another class
        ([(0, [0.3, 0.2, 0.2, 0.2], 0, 0.9)], [(0, A, 0)], 0.0),  # IoU 1/3
        # Precision 0, 1/2, 2/3: that of the second rises to 2/3.
        ([(1, C, 0, 0.9), (0, A, 0, 0.8), (1, A, 0, 0.7)], [(0, A, 0), (1, A, 0)], 2 / 3),
    ],
)  # fmt: skip
def test_average_precision(claims, objects, expected):
    claims = found(*claims)
    shuffled = np.random.default_rng(0).permutation(len(claims.scores))
    claims = Detections(**{f.name: getattr(claims, f.name)[shuffled] for f in dataclasses.fields(Detections)})
    assert average_precision(claims, truth(*objects), 0) == pytest.approx(expected)


def test_a_class_that_is_not_marked_has_no_precision():
    assert np.isnan(average_precision(found((0, A, 1, 0.9)), truth((0, A, 0)), 1))


def test_iou():
    np.testing.assert_allclose(
        iou(np.array([A, B]), np.array([A, NEAR_A])), [[1, 0.19 / 0.21], [0, 0]], atol=1e-6
    )


def dataset() -> data.Dataset:
    """Four pictures, each with a red object at the same place and a white one at another each time."""
    rng = np.random.default_rng(0)
    records = tuple(
        {
            "__key__": str(n),
            "image": rng.integers(0, 256, (12, 16, 3)).astype(np.uint8),
            "boxes": [A, [0.5, 0.2 + 0.2 * n, 0.1, 0.1]],
            "labels": ["red", "white"],
        }
        for n in range(4)
    )
    return data.Dataset(
        source=Records(records),
        streams={
            "image": data.ImageTransform("image", size=(12, 16)),
            "boxes": data.BoxesTransform(
                "boxes", labels="labels", classes=("red", "white", "black"), max_boxes=4, format="cxcywh"
            ),
        },
    )


def predictor(batch, view, heads, seed=0):
    """Knows all that is marked, and claims a black object in each picture besides."""
    marked = batch["boxes"]
    rows = len(marked.mask)
    predicted = np.full((rows, 6, 8), 0.1, np.float32)
    predicted[..., 7] = 10.0
    for row in range(rows):
        for n in np.flatnonzero(marked.mask[row]):
            predicted[row, n, :4] = marked.boxes[row, n]
            predicted[row, n, 4 + marked.classes[row, n]] = 20.0
    predicted[:, 5, 6] = 20.0
    return {"boxes": predicted}, {}


def test_the_evaluation_counts_classes_that_are_marked_and_draws(tmp_path):
    measure = evals.Boxes(data=dataset(), train=dataset(), batch_size=3)
    result = measure(predictor)
    assert {name: result.metrics[name] for name in ("mAP50", "AP50/red", "AP50/white", "num_pictures")} == {
        "mAP50": 1.0, "AP50/red": 1.0, "AP50/white": 1.0, "num_pictures": 4,
    }  # fmt: skip
    assert "AP50/black" not in result.metrics
    # The red object is always at one place, which the training data tell.
    assert result.metrics["AP50/red/blind"] > 0.5 > result.metrics["AP50/white/blind"]
    result.pictures["boxes"](tmp_path / "boxes.png")
    assert (tmp_path / "boxes.png").stat().st_size > 10_000


def test_data_without_boxes_are_refused():
    streams = {"image": dataset().streams["image"]}
    with pytest.raises(InputError, match=r"Boxes needs the streams \['image', 'boxes'\], but its data have"):
        evals.Boxes(data=dataclasses.replace(dataset(), streams=streams))
