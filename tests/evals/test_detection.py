"""Average precision on hand-computed cases, and evals.Boxes with a model that predicts the true boxes."""

import dataclasses

import numpy as np
import pytest
from fakes import RecordSource

from mmjax import data, evals
from mmjax.errors import InputError
from mmjax.evals.detection import Detections, average_precision, iou

A, B, C = [0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.2, 0.7, 0.2, 0.2]
NEAR_A = [0.21, 0.2, 0.2, 0.2]  # IoU .90


def detections(*rows) -> Detections:
    """Of (image, box, class, score)."""
    images, boxes, classes, scores = zip(*rows, strict=True)
    return Detections(np.array(images), np.array(boxes, float), np.array(classes), np.array(scores, float))


def true_boxes(*rows) -> Detections:
    """Of (image, box, class)."""
    return detections(*[(*row, 1.0) for row in rows])


@pytest.mark.parametrize(
    "predicted, targets, expected",
    [
        ([(0, A, 0, 0.9)], [(0, A, 0)], 1.0),
        ([(0, A, 0, 0.9)], [(0, A, 0), (0, B, 0)], 0.5),  # one of two objects is detected
        ([(0, B, 0, 0.9), (0, A, 0, 0.5)], [(0, A, 0)], 0.5),  # the wrong box has the higher score
        ([(0, A, 0, 0.9), (0, B, 0, 0.5)], [(0, A, 0)], 1.0),  # the wrong box has the lower score
        # One object is detected twice.
        ([(0, A, 0, 0.9), (0, NEAR_A, 0, 0.8), (0, B, 0, 0.7)], [(0, A, 0), (0, B, 0)], (1 + 2 / 3) / 2),
        ([(1, A, 0, 0.9)], [(0, A, 0)], 0.0),  # another image
        ([(0, A, 1, 0.9)], [(0, A, 0)], 0.0),  # another class
        ([(0, [0.3, 0.2, 0.2, 0.2], 0, 0.9)], [(0, A, 0)], 0.0),  # IoU 1/3
        # The precisions are 0, 1/2 and 2/3, so that the monotonic precision of the second is 2/3.
        ([(1, C, 0, 0.9), (0, A, 0, 0.8), (1, A, 0, 0.7)], [(0, A, 0), (1, A, 0)], 2 / 3),
    ],
)  # fmt: skip
def test_average_precision(predicted, targets, expected):
    predicted = detections(*predicted)
    shuffled = np.random.default_rng(0).permutation(len(predicted.scores))
    fields = {f.name: getattr(predicted, f.name)[shuffled] for f in dataclasses.fields(Detections)}
    assert average_precision(Detections(**fields), true_boxes(*targets), 0) == pytest.approx(expected)


def test_average_precision_of_a_class_without_true_boxes_is_nan():
    assert np.isnan(average_precision(detections((0, A, 1, 0.9)), true_boxes((0, A, 0)), 1))


def test_iou():
    np.testing.assert_allclose(
        iou(np.array([A, B]), np.array([A, NEAR_A])), [[1, 0.19 / 0.21], [0, 0]], atol=1e-6
    )


def dataset() -> data.Dataset:
    """Four images: the red object is at the same place in each, the white one is not."""
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
        source=RecordSource(records),
        streams={
            "image": data.ImageTransform("image", size=(12, 16)),
            "boxes": data.BoxesTransform(
                "boxes", labels="labels", classes=("red", "white", "black"), max_boxes=4, format="cxcywh"
            ),
        },
    )


def predictor(batch, view, heads, seed=0):
    """Predicts all true boxes, and a black object in each image besides."""
    targets = batch["boxes"]
    rows = len(targets.mask)
    predicted = np.full((rows, 6, 8), 0.1, np.float32)
    predicted[..., 7] = 10.0
    for row in range(rows):
        for n in np.flatnonzero(targets.mask[row]):
            predicted[row, n, :4] = targets.boxes[row, n]
            predicted[row, n, 4 + targets.classes[row, n]] = 20.0
    predicted[:, 5, 6] = 20.0
    return {"boxes": predicted}, {}


def test_the_evaluation_measures_classes_with_true_boxes_and_draws_a_sheet(tmp_path):
    evaluation = evals.Boxes(data=dataset(), train=dataset(), batch_size=3)
    result = evaluation(predictor)
    assert {name: result.metrics[name] for name in ("mAP50", "AP50/red", "AP50/white", "num_pictures")} == {
        "mAP50": 1.0, "AP50/red": 1.0, "AP50/white": 1.0, "num_pictures": 4,
    }  # fmt: skip
    assert "AP50/black" not in result.metrics
    # The blind baseline finds only the red object, whose place is the same in all training images.
    assert result.metrics["AP50/red/blind"] > 0.5 > result.metrics["AP50/white/blind"]
    result.pictures["boxes"](tmp_path / "boxes.png")
    assert (tmp_path / "boxes.png").stat().st_size > 10_000


def test_data_without_boxes_are_refused():
    streams = {"image": dataset().streams["image"]}
    with pytest.raises(InputError, match=r"Boxes needs the streams \['image', 'boxes'\], but its data have"):
        evals.Boxes(data=dataclasses.replace(dataset(), streams=streams))
