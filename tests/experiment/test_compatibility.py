"""An experiment whose sequence objectives do not fit the model or the data is refused before it runs."""

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
    monkeypatch.setenv("MMJAX_DATA", "/data")  # does not exist: loading an experiment reads no data
    return load(EXPERIMENTS / "read_speech.py")


@pytest.fixture
def entities(monkeypatch) -> Experiment:
    monkeypatch.setenv("MMJAX_DATA", "/data")
    return load(EXPERIMENTS / "entities.py")


def with_model(experiment: Experiment, **changes) -> Experiment:
    return dataclasses.replace(experiment, model=experiment.model.clone(**changes))


def with_heads(experiment: Experiment, **changes) -> Experiment:
    return with_model(experiment, heads=dict(experiment.model.heads) | changes)


def assert_refused(experiment: Experiment, message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(experiment)


def test_causal_objective_refuses_a_bidirectional_encoder(speech):
    encoders = dict(speech.model.encoders)
    encoders["text"] = encoders["text"].clone(trunk=encoders["text"].trunk.clone(causal=False))
    assert_refused(
        with_model(speech, encoders=encoders),
        r"objective 'words': the encoder of 'text' lets position t read t \+ 1, which leaks the target: "
        "expected a trunk with causal=True, or the view Prefix",
    )


def test_causal_objective_refuses_a_bidirectional_fusion(speech):
    assert_refused(
        with_model(speech, fusion=speech.model.fusion.clone(causal_streams=())),
        r"objective 'words': the fusion CoAttention lets position t of 'text' read t \+ 1, which leaks the "
        r"target: expected one that is_causal_for\('text'\), such as "
        r"CoAttention\(updated_streams=\('text',\), causal_streams=\('text',\)\)",
    )
    validate(with_heads(with_model(speech, fusion=fusion.Late(("text", "audio")))))


def test_causal_objective_refuses_a_head_of_another_stream(speech):
    objectives = dict(speech.objectives)
    objectives["words"] = objectives["words"].clone(head="frames")
    assert_refused(
        dataclasses.replace(speech, objectives=objectives),
        "objective 'words': the head 'frames' reads 'audio': expected one that reads 'text'",
    )


def test_ctc_refuses_a_small_vocabulary_and_other_heads(speech):
    assert_refused(
        with_heads(speech, frames=heads.FrameLogits("audio", vocab=114)),
        r"objective 'frames': the stream 'text' has a vocabulary of 115: expected at least that in "
        r"model.heads.frames.vocab, found 114",
    )
    assert_refused(
        with_heads(speech, frames=heads.TokenLogits("text")),
        "objective 'frames': the head 'frames' is a TokenLogits: expected FrameLogits",
    )


def test_token_classification_refuses_another_number_of_classes(entities):
    assert_refused(
        with_heads(entities, tags=heads.PositionClasses("text", num_classes=12)),
        "objective 'tags': the stream 'tags' has 13 classes: expected that number in "
        "model.heads.tags.num_classes, found 12",
    )


def test_target_streams_of_sequence_objectives(speech, entities):
    assert (
        speech.objectives["frames"].target_streams()
        == speech.objectives["words"].target_streams()
        == ("text",)
    )
    assert entities.objectives["tags"].target_streams() == ("tags",)
