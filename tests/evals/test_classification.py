"""Classes and several classes, against plain loops, with models that know only what they are shown."""

import dataclasses

import numpy as np
import pytest
from fakes import NAMES, RATE_HZ, Records, dataset

from mmjax import data
from mmjax.errors import InputError
from mmjax.evals import Classification, MultiLabel
from mmjax.evals.classification import average_precision


class Knowing:
    """Says the class that the first letters of the text give; reads it from the picture or the sound alone.

    `rules`: {streams that are there, joined by "+": what is said of each row}.
    """

    def __init__(self, rules: dict[str, list[int]], num_classes: int = 3):
        self.rules, self.num_classes, self.start = rules, num_classes, {}

    def __call__(self, batch, view, heads, seed=0):
        given = "+".join(s for s in ("audio", "image") if np.asarray(batch[s].mask).any())
        start = self.start.get(given, 0)
        rows = len(batch["label"].mask)
        self.start[given] = start + rows
        said = (self.rules[given] + [0] * rows)[start : start + rows]
        return {heads[0]: np.eye(self.num_classes, dtype=np.float32)[said]}, {}


def test_accuracy_recall_and_f1_equal_a_loop():
    """True labels are 0 1 2 0 1 2 0; the third has no picture, the sixth no label."""
    examples = dataset(missing=((2, "image"), (5, "label")))
    said = [0, 2, 1, 1, 1, 0, 0]
    evaluation = Classification(data=examples, head="x", streams=("image", "audio"), batch_size=4)
    metrics = evaluation(Knowing({"audio+image": said, "audio": said})).metrics
    true = {0: 0, 1: 1, 3: 0, 4: 1, 6: 0}
    assert metrics["accuracy"] == pytest.approx(np.mean([said[row] == label for row, label in true.items()]))
    assert metrics["accuracy/low"] <= metrics["accuracy"] <= metrics["accuracy/high"]
    assert metrics["accuracy/majority"] == pytest.approx(3 / 5)
    f1 = []
    for label in (0, 1):
        hits = sum(said[row] == label for row in true if true[row] == label)
        precision = hits / sum(said[row] == label for row in true)
        recall = hits / sum(found == label for found in true.values())
        assert metrics[f"recall/{('zero', 'one')[label]}"] == pytest.approx(recall)
        f1.append(2 * precision * recall / (precision + recall))
    assert metrics["f1"] == pytest.approx(np.mean(f1))
    assert "recall/two" not in metrics, "a class that does not occur has no recall"


def test_each_subset_of_the_streams_is_asked(tmp_path):
    rules = {"image": [0] * 7, "audio": [0, 1, 0, 0, 1, 0, 0], "audio+image": [0, 1, 2, 0, 1, 2, 0]}
    evaluation = Classification(
        data=dataset(), head="x", streams=("image", "audio"), subsets=True, train=dataset(NAMES[:4])
    )
    result = evaluation(Knowing(rules))
    found = [result.metrics[f"{given}/accuracy"] for given in ("image", "audio", "image+audio")]
    assert found == pytest.approx([3 / 7, 5 / 7, 1])
    assert "accuracy" not in result.metrics and result.metrics["accuracy/majority"] == pytest.approx(3 / 7)
    assert set(result.pictures) == {"image_confusion", "audio_confusion", "image+audio_confusion"}
    result.pictures["audio_confusion"](tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_the_majority_is_that_of_the_training_labels():
    train = dataset(NAMES[:3])  # 0 1 2: the first of equals
    evaluation = Classification(data=dataset(NAMES[:2]), head="x", streams=("image",), train=train)
    assert evaluation.majority(np.array([1, 1, 1, 0])) == 0.25
    assert dataclasses.replace(evaluation, train=None).majority(np.array([1, 1, 1, 0])) == 0.75


def test_refusals_say_what_is_wrong():
    with pytest.raises(InputError, match=r"Classification needs the streams \['image', 'kind'\]"):
        Classification(data=dataset(), head="x", labels="kind", streams=("image",))
    with pytest.raises(InputError, match="the streams that its head looks at, found none"):
        Classification(data=dataset(), head="x", streams=())
    with pytest.raises(InputError, match="head 'x' has 2 classes, and `classes` names 3"):
        Classification(data=dataset(), head="x", streams=("image",))(Knowing({"audio+image": [0] * 7}, 2))
    with pytest.raises(InputError, match="found the class 2, and the head 'x' has 2 classes"):
        Classification(data=dataset(), head="x", streams=("image",), classes=("a", "b"))(
            Knowing({"audio+image": [0] * 7}, 2)
        )
    none = dataset(missing=tuple((n, "label") for n in range(len(NAMES))))
    with pytest.raises(InputError, match=r"no example of the data has all of \['image', 'label'\]"):
        Classification(data=none, head="x", streams=("image",))(Knowing({"audio+image": [0] * 7}))


def slow_average_precision(scores, yes) -> float:
    """By its definition, a threshold at each score."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        above = [bool(y) for score, y in zip(scores, yes, strict=True) if score >= threshold]
        recall = sum(above) / sum(yes)
        total += (recall - before) * sum(above) / len(above)
        before = recall
    return total


def test_average_precision_equals_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, yes = rng.integers(0, 6, 15).astype(np.float32), rng.uniform(size=15) < 0.4
        yes[0] = True
        assert average_precision(scores, yes) == pytest.approx(slow_average_precision(scores, yes))
    assert average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, True, False])) == 1
    # What scikit-learn's documentation gives for these: 0.83...
    found = average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    assert found == pytest.approx(5 / 6)


CLASSES = ("a", "b", "c")
ANSWERS = ([0, 1], [1], None, [], [0])


def several() -> data.Dataset:
    """Five pictures; of the third nobody knows."""
    records = []
    for n, answers in enumerate(ANSWERS):
        record = {"__key__": str(n), "image": np.full((8, 8, 3), n, np.uint8), "answers": answers}
        records.append({name: value for name, value in record.items() if value is not None})
    return data.Dataset(
        Records(tuple(records)),
        {
            "image": data.ImageTransform("image", (8, 8)),
            "labels": data.MultiLabelTransform("answers", CLASSES, optional=True),
        },
    )


LOGITS = np.array([[2, -1, 0], [3, 1, 0], [9, 9, 9], [-1, 2, 1], [1, -3, -1], [0, 0, 0]], np.float32)


def test_several_labels_of_known_answers_alone():
    """The last batch is filled with rows that are none."""
    start = iter((0, 2, 4))

    def predictor(batch, view, heads, seed=0):
        first = next(start)
        return {"x": LOGITS[first : first + 2]}, {}

    metrics = MultiLabel(data=several(), head="x", streams=("image",), batch_size=2)(predictor).metrics
    known = [0, 1, 3, 4]
    yes = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]])
    precisions = [slow_average_precision(LOGITS[known, n], yes[:, n]) for n in (0, 1)]
    assert metrics["average_precision/a"] == pytest.approx(precisions[0])
    assert metrics["mean_average_precision"] == pytest.approx(np.mean(precisions)), "no row has class c"
    assert metrics["mean_average_precision/chance"] == pytest.approx(0.5)
    said = LOGITS[known] > 0
    assert metrics["f1"] == pytest.approx(2 * (said & (yes > 0)).sum() / (said.sum() + yes.sum()))


def test_several_labels_given_each_subset_of_the_streams():
    """Whoever sees the picture knows, who hears alone is wrong; an example without sound does not count."""
    records = [
        {"__key__": str(n), "image": np.full((8, 8, 3), n, np.uint8), "answers": [n % 2]}
        | ({} if n == 3 else {"audio": np.full(80, 0.1, np.float32)})
        for n in range(4)
    ]
    examples = data.Dataset(
        Records(tuple(records)),
        {
            "image": data.ImageTransform("image", (8, 8)),
            "audio": data.AudioTransform("audio", sample_rate_hz=RATE_HZ, seconds=0.01, optional=True),
            "labels": data.MultiLabelTransform("answers", CLASSES),
        },
    )

    def predictor(batch, view, heads, seed=0):
        yes = np.asarray(batch["labels"].values)
        sees = np.asarray(batch["image"].mask).any()
        return {"x": np.where(yes == sees, 1.0, -1.0).astype(np.float32)}, {}

    fields = dict(data=examples, head="x", streams=("image", "audio"))
    metrics = MultiLabel(**fields, subsets=True)(predictor).metrics
    f1 = [metrics[f"{given}/f1"] for given in ("image", "audio", "image+audio")]
    assert f1 == pytest.approx([1, 0, 1])
    assert metrics["audio/average_precision/a"] == pytest.approx(
        slow_average_precision([-1, 1, -1], [1, 0, 1])
    )
    assert "f1" not in metrics and "f1" in MultiLabel(**fields)(predictor).metrics
    with pytest.raises(InputError, match=r"MultiLabel measures subsets by itself.*Set `subsets=True`"):
        MultiLabel(**fields, subsets_of=("image", "audio"))


def test_several_labels_of_another_number_are_refused():
    with pytest.raises(InputError, match=r"head 'x' has 2 classes, and the data 3: \['a', 'b', 'c'\]"):
        MultiLabel(data=several(), head="x", streams=("image",))(
            lambda batch, *_, seed=0: ({"x": np.zeros((len(batch["image"].mask), 2), np.float32)}, {})
        )
