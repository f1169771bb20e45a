"""Classification with one label and with several, against plain loops, with scripted models."""

import dataclasses

import numpy as np
import pytest
from fakes import NAMES, RATE_HZ, RecordSource, dataset

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import Classification, MultiLabel, class_scores
from mmjax.evals.class_scores import average_precision


class ScriptedClassifier:
    """Predicts the next of the classes that are listed for the streams that the batch has.

    classes: {streams joined by "+": the class of each example of the data}.
    """

    def __init__(self, classes: dict[str, list[int]], num_classes: int = 3):
        self.classes, self.num_classes, self.start = classes, num_classes, {}

    def __call__(self, batch, view, heads, seed=0):
        given = "+".join(s for s in ("audio", "image") if np.asarray(batch[s].mask).any())
        start = self.start.get(given, 0)
        rows = len(batch["label"].mask)
        self.start[given] = start + rows
        predicted = (self.classes[given] + [0] * rows)[start : start + rows]
        return {heads[0]: np.eye(self.num_classes, dtype=np.float32)[predicted]}, {}


def test_accuracy_recall_and_f1_equal_a_loop():
    """The labels are 0 1 2 0 1 2 0; example 2 has no image and example 5 no label."""
    examples = dataset(missing=((2, "image"), (5, "label")))
    predicted = [0, 2, 1, 1, 1, 0, 0]
    evaluation = Classification(data=examples, head="x", streams=("image", "audio"), batch_size=4)
    metrics = evaluation(ScriptedClassifier({"audio+image": predicted, "audio": predicted})).metrics
    labels = {0: 0, 1: 1, 3: 0, 4: 1, 6: 0}
    hits = [predicted[row] == label for row, label in labels.items()]
    assert metrics["accuracy"] == pytest.approx(np.mean(hits))
    assert metrics["accuracy/low"] <= metrics["accuracy"] <= metrics["accuracy/high"]
    assert metrics["accuracy/majority"] == pytest.approx(3 / 5)
    f1 = []
    for label in (0, 1):  # class 2 is predicted once, and never true: its F1 is 0
        hits = sum(predicted[row] == label for row in labels if labels[row] == label)
        precision = hits / sum(predicted[row] == label for row in labels)
        recall = hits / sum(other == label for other in labels.values())
        assert metrics[f"recall/{('zero', 'one')[label]}"] == pytest.approx(recall)
        f1.append(2 * precision * recall / (precision + recall))
    assert metrics["f1"] == pytest.approx(sum(f1) / 3)
    assert "recall/two" not in metrics, "no counted example has this class"


def test_each_subset_of_the_streams_is_measured(tmp_path):
    classes = {"image": [0] * 7, "audio": [0, 1, 0, 0, 1, 0, 0], "audio+image": [0, 1, 2, 0, 1, 2, 0]}
    evaluation = Classification(
        data=dataset(), head="x", streams=("image", "audio"), subsets=True, train=dataset(NAMES[:4])
    )
    result = evaluation(ScriptedClassifier(classes))
    accuracies = [result.metrics[f"{given}/accuracy"] for given in ("image", "audio", "image+audio")]
    assert accuracies == pytest.approx([3 / 7, 5 / 7, 1])
    assert "accuracy" not in result.metrics and result.metrics["accuracy/majority"] == pytest.approx(3 / 7)
    assert set(result.pictures) == {"image_confusion", "audio_confusion", "image+audio_confusion"}
    result.pictures["audio_confusion"](tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_the_majority_is_that_of_the_training_labels():
    train = dataset(NAMES[:3])  # labels 0 1 2: the smallest of equally common classes is predicted
    evaluation = Classification(data=dataset(NAMES[:2]), head="x", streams=("image",), train=train)
    assert evaluation.majority(np.array([1, 1, 1, 0])) == 0.25
    assert dataclasses.replace(evaluation, train=None).majority(np.array([1, 1, 1, 0])) == 0.75


def test_invalid_streams_classes_and_labels_are_refused():
    with pytest.raises(InputError, match=r"Classification needs the streams \['image', 'kind'\]"):
        Classification(data=dataset(), head="x", labels="kind", streams=("image",))
    with pytest.raises(InputError, match="expects `streams`, those that its head reads, found none"):
        Classification(data=dataset(), head="x", streams=())
    two_classes = {"audio+image": [0] * 7}, 2
    with pytest.raises(InputError, match="head 'x' has 2 classes, and `classes` names 3"):
        Classification(data=dataset(), head="x", streams=("image",))(ScriptedClassifier(*two_classes))
    with pytest.raises(InputError, match="found the class 2, and the head 'x' has 2 classes"):
        Classification(data=dataset(), head="x", streams=("image",), classes=("a", "b"))(
            ScriptedClassifier(*two_classes)
        )
    unlabelled = dataset(missing=tuple((n, "label") for n in range(len(NAMES))))
    with pytest.raises(InputError, match=r"no example of the data has all of \['image', 'label'\]"):
        evaluation = Classification(data=unlabelled, head="x", streams=("image",))
        evaluation(ScriptedClassifier({"audio+image": [0] * 7}))


def slow_average_precision(scores, labels) -> float:
    """By its definition, with a threshold at each score."""
    total, last_recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        above = [bool(label) for label, score in zip(labels, scores, strict=True) if score >= threshold]
        recall = sum(above) / sum(labels)
        total += (recall - last_recall) * sum(above) / len(above)
        last_recall = recall
    return total


def test_average_precision_equals_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, labels = rng.integers(0, 6, 15).astype(np.float32), rng.uniform(size=15) < 0.4
        labels[0] = True
        assert average_precision(scores, labels) == pytest.approx(slow_average_precision(scores, labels))
    assert average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, True, False])) == 1
    # The example in scikit-learn's documentation of average_precision_score.
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert average_precision(scores, labels) == pytest.approx(5 / 6)


CLASSES = ("a", "b", "c")
CLASS_NUMBERS = ([0, 1], [1], None, [], [0])


def multi_label_dataset() -> data.Dataset:
    """Five images; the labels of the third are unknown."""
    records = []
    for n, numbers in enumerate(CLASS_NUMBERS):
        record = {"__key__": str(n), "image": np.full((8, 8, 3), n, np.uint8), "classes": numbers}
        records.append({name: value for name, value in record.items() if value is not None})
    return data.Dataset(
        RecordSource(tuple(records)),
        {
            "image": data.ImageTransform("image", (8, 8)),
            "labels": data.MultiLabelTransform("classes", CLASSES, optional=True),
        },
    )


LOGITS = np.array([[2, -1, 0], [3, 1, 0], [9, 9, 9], [-1, 2, 1], [1, -3, -1], [0, 0, 0]], np.float32)


def test_multi_label_counts_only_known_labels():
    """The last batch has a padding row."""
    starts = iter((0, 2, 4))

    def predictor(batch, view, heads, seed=0):
        start = next(starts)
        return {"x": LOGITS[start : start + 2]}, {}

    evaluation = MultiLabel(data=multi_label_dataset(), head="x", streams=("image",), batch_size=2)
    metrics = evaluation(predictor).metrics
    known = [0, 1, 3, 4]
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]])
    precisions = [slow_average_precision(LOGITS[known, n], labels[:, n]) for n in (0, 1)]
    assert metrics["average_precision/a"] == pytest.approx(precisions[0])
    assert metrics["mean_average_precision"] == pytest.approx(np.mean(precisions)), "no row has class c"
    assert metrics["mean_average_precision/chance"] == pytest.approx(0.5)
    predicted = LOGITS[known] > 0
    f1 = 2 * (predicted & (labels > 0)).sum() / (predicted.sum() + labels.sum())
    assert metrics["f1"] == pytest.approx(f1)


def test_multi_label_measures_each_subset_of_the_streams():
    """The model is right if it reads the image, and wrong otherwise. The fourth example lacks audio."""
    records = [
        {"__key__": str(n), "image": np.full((8, 8, 3), n, np.uint8), "classes": [n % 2]}
        | ({} if n == 3 else {"audio": np.full(80, 0.1, np.float32)})
        for n in range(4)
    ]
    examples = data.Dataset(
        RecordSource(tuple(records)),
        {
            "image": data.ImageTransform("image", (8, 8)),
            "audio": data.AudioTransform("audio", sample_rate_hz=RATE_HZ, seconds=0.01, optional=True),
            "labels": data.MultiLabelTransform("classes", CLASSES),
        },
    )

    def predictor(batch, view, heads, seed=0):
        labels = np.asarray(batch["labels"].values)
        has_image = np.asarray(batch["image"].mask).any()
        return {"x": np.where(labels == has_image, 1.0, -1.0).astype(np.float32)}, {}

    fields = dict(data=examples, head="x", streams=("image", "audio"))
    metrics = MultiLabel(**fields, subsets=True)(predictor).metrics
    f1 = [metrics[f"{given}/f1"] for given in ("image", "audio", "image+audio")]
    assert f1 == pytest.approx([1, 0, 1])
    expected = slow_average_precision([-1, 1, -1], [1, 0, 1])
    assert metrics["audio/average_precision/a"] == pytest.approx(expected)
    assert "f1" not in metrics and "f1" in MultiLabel(**fields)(predictor).metrics
    with pytest.raises(InputError, match=r"MultiLabel measures subsets by itself.*Set `subsets=True`"):
        MultiLabel(**fields, subsets_of=("image", "audio"))


def test_multi_label_refuses_a_head_with_another_number_of_classes():
    with pytest.raises(InputError, match=r"head 'x' has 2 classes, and the data 3: \['a', 'b', 'c'\]"):
        MultiLabel(data=multi_label_dataset(), head="x", streams=("image",))(
            lambda batch, *_, seed=0: ({"x": np.zeros((len(batch["image"].mask), 2), np.float32)}, {})
        )


def test_auroc_is_the_fraction_of_ordered_pairs():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 40), rng.uniform(size=40) < 0.4
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
    assert class_scores.auroc(scores, labels) == pytest.approx(np.mean(pairs))
    # The example in scikit-learn's documentation of roc_auc_score.
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert class_scores.auroc(scores, labels) == 0.75
    assert class_scores.auroc(scores, labels | True) is None
    assert class_scores.macro_auroc(np.eye(3), np.array([1, 1, 1])) is None


def test_top_5_accuracy_counts_equal_scores_as_wrong():
    scores = np.array([[6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6], [7, 7, 7, 7, 7, 7]])
    assert class_scores.top_k_accuracy(scores, np.array([4, 0, 0])) == 1 / 3
    assert class_scores.top_k_accuracy(scores[:, :5], np.array([4, 0, 0])) is None


def test_calibration_error_equals_a_loop():
    rng = np.random.default_rng(0)
    probabilities, targets = class_scores.softmax(rng.normal(size=(200, 4))), rng.integers(0, 4, 200)
    error = 0.0
    for number in range(15):
        in_bin = [n for n, row in enumerate(probabilities) if number / 15 < row.max() <= (number + 1) / 15]
        hits = sum(probabilities[n].argmax() == targets[n] for n in in_bin)
        error += abs(hits - sum(probabilities[n].max() for n in in_bin)) / 200
    assert class_scores.expected_calibration_error(probabilities, targets) == pytest.approx(error)
    certain = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert class_scores.expected_calibration_error(certain, np.array([0, 1])) == 0.5


def test_data_of_one_class_have_no_auroc():
    examples = dataset(NAMES[:1])  # label 0
    evaluation = Classification(data=examples, head="x", streams=("image", "audio"))
    metrics = evaluation(ScriptedClassifier({"audio+image": [0]})).metrics
    assert (
        "auroc" not in metrics and metrics["accuracy"] == metrics["accuracy/majority"] == metrics["f1"] == 1
    )
