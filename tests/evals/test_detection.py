"""Average precision on hand-computed cases, and evals.Boxes with a model that predicts the true boxes."""

import dataclasses

import numpy as np
import pytest
from fakes import RecordSource

from mmjax import data, evals
from mmjax.errors import InputError
from mmjax.evals.coco import class_precisions, coco_metrics
from mmjax.evals.detection import Detections, average_precision, iou

A, B, C = [0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.2, 0.7, 0.2, 0.2]
NEAR_A = [0.21, 0.2, 0.2, 0.2]  # IoU .90


def detections(*rows) -> Detections:
    """Of (image, box, class, score)."""
    images, boxes, classes, scores = zip(*rows, strict=True)
    return Detections.of(np.array(images), np.array(boxes, float), np.array(classes), np.array(scores, float))


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
    shuffled = predicted.take(np.random.default_rng(0).permutation(len(predicted.scores)))
    assert average_precision(shuffled, true_boxes(*targets), 0) == pytest.approx(expected)


def test_average_precision_of_a_class_without_true_boxes_is_nan():
    assert np.isnan(average_precision(detections((0, A, 1, 0.9)), true_boxes((0, A, 0)), 1))


def test_coco_takes_the_precision_at_101_recalls():
    """Found are one of two objects, and a wrong box of a lower score: recalls 0 to .5 have precision 1."""
    predicted, targets = detections((0, A, 0, 0.9), (0, C, 0, 0.5)), true_boxes((0, A, 0), (0, B, 0))
    np.testing.assert_allclose(class_precisions(predicted, targets, 0), np.full(10, 51 / 101))
    assert class_precisions(predicted, targets, 1) is None
    near = detections((0, NEAR_A, 0, 0.9))  # IoU .905: right at 9 of 10 thresholds
    found = coco_metrics(near, true_boxes((0, A, 0)), 1)
    assert found == {"AP": pytest.approx(0.9), "AP50": pytest.approx(1), "AP75": pytest.approx(1)}
    nothing = detections((0, A, 1, 0.9))
    assert coco_metrics(nothing, true_boxes((0, A, 0)), 2)["AP"] == 0


def test_a_crowd_is_neither_right_nor_wrong():
    crowd = dataclasses.replace(true_boxes((0, A, 0), (0, B, 0)), is_crowd=np.array([False, True]))
    small = [[0.65, 0.65, 0.05, 0.05], [0.75, 0.75, 0.05, 0.05]]  # inside B, but of a small IoU with it
    predicted = detections((0, small[0], 0, 0.9), (0, small[1], 0, 0.8), (0, A, 0, 0.7))
    assert coco_metrics(predicted, crowd, 1)["AP50"] == pytest.approx(1)
    predicted = detections((0, B, 0, 0.9), (0, A, 0, 0.7))
    assert average_precision(predicted, crowd, 0) == 1
    only_crowd = dataclasses.replace(true_boxes((0, A, 0)), is_crowd=np.array([True]))
    assert np.isnan(average_precision(predicted, only_crowd, 0))


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


def image_dataset(boxes: list, crowd: list | None = None) -> data.Dataset:
    """One image for each list of boxes of class "red"; None: nobody annotated it."""
    records = []
    for n, each in enumerate(boxes):
        record = {"__key__": str(n), "image": np.full((12, 16, 3), n, np.uint8)}
        if each is not None:
            record |= {"boxes": each, "labels": ["red"] * len(each)}
        records.append(record | ({"crowd": crowd[n]} if crowd else {}))
    streams = dataset().streams | {"boxes": dataclasses.replace(dataset().streams["boxes"], optional=True)}
    return data.Dataset(RecordSource(tuple(records)), streams)


def predict_a(batch, view, heads, seed=0):
    """A red box A in every image, with a higher score in later images."""
    predicted = np.zeros((len(batch["image"].mask), 1, 8), np.float32)
    predicted[:, 0, :4] = A
    predicted[:, 0, 4] = 5 + 5 * np.asarray(batch["image"].pixels)[:, 0, 0, 0]
    return {"boxes": predicted}, {}


def test_images_without_objects_count_and_images_without_annotations_do_not():
    metrics = evals.Boxes(data=image_dataset([[A], None, []]), batch_size=2)(predict_a).metrics
    assert (metrics["num_pictures"], metrics["num_boxes"]) == (2, 1)
    assert metrics["mAP50"] == 1 / 2, "the image without objects has the detection of the highest score"
    assert metrics["coco/AP50"] == pytest.approx(1 / 2)
    with pytest.raises(InputError, match="found only images without any"):
        evals.Boxes(data=image_dataset([[], []]))(predict_a)
    with pytest.raises(InputError, match="no example of the data has both 'image' and 'boxes'"):
        evals.Boxes(data=image_dataset([None]))(predict_a)


def test_crowds_are_read_from_the_record():
    examples = image_dataset([[A], [A]], crowd=[[0], [1]])
    metrics = evals.Boxes(data=examples, crowd="crowd")(predict_a).metrics
    assert (metrics["mAP50"], metrics["num_boxes"]) == (1, 1)
    with pytest.raises(InputError, match="expected 1 flags in 'crowd' of the record '1'.* found 2"):
        evals.Boxes(data=image_dataset([[A], [A]], crowd=[[0], [1, 0]]), crowd="crowd")(predict_a)


def test_data_without_boxes_are_refused():
    streams = {"image": dataset().streams["image"]}
    with pytest.raises(InputError, match=r"Boxes needs the streams \['image', 'boxes'\], but its data have"):
        evals.Boxes(data=dataclasses.replace(dataset(), streams=streams))
