"""Class numbers that a head does not have are bad examples, and not a loss of NaN."""

import dataclasses

import numpy as np
import pytest

from mmjax import data, encoders, evals, fusion, heads, objectives, training
from mmjax.errors import InputError
from mmjax.experiment import Experiment
from mmjax.experiment.validation import validate
from mmjax.model import MultimodalModel
from mmjax.run.class_numbers import limit_dataset, limit_evaluation
from mmjax.run.input import TrainInput
from mmjax.run.session import Session
from mmjax.testing import tiny_trunk


def experiment(label: data.LabelTransform, values=(0, 1, 2, 3, 0, 0, 0, 0)) -> Experiment:
    """Classifies eight pictures; the head has three classes."""
    pixels = np.zeros((8, 8, 8, 3), np.uint8)
    dataset = data.Dataset(
        data.Arrays({"image": pixels, "y": list(values)}),
        {"image": data.ImageTransform("image", (8, 8)), "label": label},
    )
    return Experiment(
        name="classes",
        num_steps=4,
        data=data.Mixture.of(dataset, batch_size=8, max_bad_fraction=0.5),
        model=MultimodalModel(
            encoders={"image": encoders.ViT(encoders.LinearPatches((4, 4)), tiny_trunk(depth=1))},
            fusion=fusion.Late(),
            heads={"class": heads.Classes("image", num_classes=3, pooling="mean", after="encoder")},
        ),
        objectives={"class": objectives.Classification("class")},
        optimizer=training.AdamW(peak_learning_rate=1e-3),
        evals={"losses": evals.Losses(data=dataset)},
    )


def first_dataset(an_experiment: Experiment) -> data.Dataset:
    return an_experiment.data.datasets["data"][1]


def test_a_number_that_the_head_does_not_have_is_a_bad_example():
    made = experiment(data.LabelTransform("y"))
    for dataset in (
        limit_dataset(made, first_dataset(made)),
        limit_evaluation(made, made.evals["losses"]).data,
    ):
        assert dataset.streams["label"].num_classes == 3
        examples = dataset.open()
        assert examples.example(2)["label"].values == 2
        with pytest.raises(data.BadExample, match=r"arrays\[3\]: .* number from 0 to 2 in 'y', found 3"):
            examples.example(3)


def test_training_skips_and_counts_it():
    train_input = TrainInput(Session.of(experiment(data.LabelTransform("y"))), first_step=0, num_bad=0)
    batch, _ = train_input.next()
    assert sorted(np.asarray(batch["label"].values)[np.asarray(batch["label"].mask)]) == [0, 0, 0, 0, 0, 1, 2]
    assert train_input.num_bad() == 1
    train_input.close()


def test_names_and_streams_of_other_objectives_are_left_as_they_are():
    named = experiment(data.LabelTransform("y", classes=("a", "b", "c")))
    assert limit_dataset(named, first_dataset(named)) is first_dataset(named)
    assert limit_evaluation(named, named.evals["losses"]) is named.evals["losses"]
    narrower = experiment(data.LabelTransform("y", num_classes=2))
    assert limit_dataset(narrower, first_dataset(narrower)).streams["label"].num_classes == 2
    other = dataclasses.replace(first_dataset(named), streams={"other": data.LabelTransform("y")})
    assert limit_dataset(named, other) is other


def test_more_names_than_classes_are_refused():
    with pytest.raises(
        InputError, match=r"'label' has 4 classes: .* many in model.heads.class.num_classes, found 3"
    ):
        validate(experiment(data.LabelTransform("y", classes=("a", "b", "c", "d"))))
    with pytest.raises(InputError, match="expects classes or num_classes, found both"):
        data.LabelTransform("y", classes=("a",), num_classes=1)
