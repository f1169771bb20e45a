"""Every encoder is restored from an experiment's text; token tables that are too small are refused."""

import dataclasses

import pytest
import tiny
from catalog.of_encoders import ENCODERS

from mmjax import encoders, layers
from mmjax.errors import InputError
from mmjax.experiment import load
from mmjax.experiment.reading import from_text
from mmjax.experiment.serialize import to_text
from mmjax.experiment.validation import validate


@pytest.mark.parametrize("row", ENCODERS, ids=lambda row: row.name)
def test_every_encoder_is_restored_from_its_text(row):
    encoder = row.make("bfloat16")
    assert from_text(to_text(encoder)) == encoder
    assert from_text(to_text(encoder)) != row.make("float32")


def test_a_table_smaller_than_the_vocabulary_is_refused(tmp_path):
    experiment = load(tiny.write(tmp_path))
    stream_encoders = dict(experiment.model.encoders)
    text = encoders.RecurrentText(3, layers.Recurrent(depth=1, width=stream_encoders["text"].trunk.width))
    model = experiment.model.clone(encoders=stream_encoders | {"text": text}, parent=None)
    with pytest.raises(InputError, match="has a vocabulary of 41: expected at least that in"):
        validate(dataclasses.replace(experiment, model=model))
