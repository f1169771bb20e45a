"""What an objective of sequences finds wrong with a model or its data is refused before anything runs."""

import dataclasses
from pathlib import Path

import pytest

from mmjax import fusion, heads
from mmjax.errors import InputError
from mmjax.experiment import Experiment, load
from mmjax.experiment.validation import validate

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def speech(monkeypatch) -> Experiment:
    monkeypatch.setenv("MMJAX_DATA", "/data")  # nowhere: an experiment touches no disk
    return load(EXPERIMENTS / "read_speech.py")


@pytest.fixture
def entities(monkeypatch) -> Experiment:
    monkeypatch.setenv("MMJAX_DATA", "/data")
    return load(EXPERIMENTS / "entities.py")


def with_model(experiment: Experiment, **changes) -> Experiment:
    return dataclasses.replace(experiment, model=experiment.model.clone(**changes))


def with_heads(experiment: Experiment, **changes) -> Experiment:
    return with_model(experiment, heads=dict(experiment.model.heads) | changes)


def refused(experiment: Experiment, message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(experiment)


def test_a_tower_that_reads_later_words(speech):
    towers = dict(speech.model.encoders)
    towers["text"] = towers["text"].clone(trunk=towers["text"].trunk.clone(causal=False))
    refused(
        with_model(speech, encoders=towers),
        "objective 'words': the tower of 'text' reads later tokens, and would be told the answer: expected a "
        "trunk with causal=True, or the view Prefix",
    )


def test_a_fusion_that_reads_later_words(speech):
    refused(
        with_model(speech, fusion=speech.model.fusion.clone(causal=())),
        r"objective 'words': the fusion CoAttention lets 'text' read its later tokens, and tells the answer: "
        r"expected one that is_causal_for\('text'\), such as "
        r"CoAttention\(updated=\('text',\), causal=\('text',\)\)",
    )
    validate(with_heads(with_model(speech, fusion=fusion.Late(("text", "audio")))))


def test_a_head_of_another_stream(speech):
    objectives = dict(speech.objectives)
    objectives["words"] = objectives["words"].clone(head="frames")
    refused(
        dataclasses.replace(speech, objectives=objectives),
        "objective 'words': the head 'frames' reads 'audio': expected one that reads 'text'",
    )


def test_a_head_that_knows_too_few_words(speech):
    refused(
        with_heads(speech, frames=heads.FrameLogits("audio", vocab=114)),
        r"objective 'frames': the stream 'text' has a vocabulary of 115: expected at least that in "
        r"model.heads.frames.vocab, found 114",
    )
    refused(
        with_heads(speech, frames=heads.TokenLogits("text")),
        "objective 'frames': the head 'frames' is a TokenLogits: expected FrameLogits",
    )


def test_a_head_of_another_number_of_tags(entities):
    refused(
        with_heads(entities, tags=heads.PositionClasses("text", num_classes=12)),
        "objective 'tags': the stream 'tags' has 13 classes: expected that number in "
        "model.heads.tags.num_classes, found 12",
    )


def test_what_the_data_must_give(speech, entities):
    assert (
        speech.objectives["frames"].target_streams()
        == speech.objectives["words"].target_streams()
        == ("text",)
    )
    assert entities.objectives["tags"].target_streams() == ("tags",)
