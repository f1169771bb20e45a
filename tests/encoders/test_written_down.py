"""An experiment's text holds every encoder, and gives it back; too small tables are refused."""

import dataclasses

import pytest
import tiny
from catalog.of_encoders import ENCODERS

from mmjax import encoders, layers
from mmjax.errors import InputError
from mmjax.experiment import load
from mmjax.experiment.serialize import from_text, to_text
from mmjax.experiment.validation import validate


@pytest.mark.parametrize("row", ENCODERS, ids=lambda row: row.name)
def test_every_encoder_is_read_back_from_its_text(row):
    made = row.make("bfloat16")
    assert from_text(to_text(made)) == made
    assert from_text(to_text(made)) != row.make("float32")


def test_a_table_smaller_than_the_vocabulary_is_refused(tmp_path):
    experiment = load(tiny.write(tmp_path))
    towers = dict(experiment.model.encoders)
    text = encoders.RecurrentText(3, layers.Recurrent(depth=1, width=towers["text"].trunk.width))
    model = experiment.model.clone(encoders=towers | {"text": text}, parent=None)
    with pytest.raises(InputError, match="has a vocabulary of 41: expected at least that in"):
        validate(dataclasses.replace(experiment, model=model))
