"""Losses on held-out examples: weighted by examples, drawn from fixed seeds, and the learner's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from fakes import dataset

from mmjax import data
from mmjax.errors import InputError, NonFiniteError
from mmjax.evals import Losses, Retrieval
from mmjax.experiment import load
from mmjax.experiment.validation import validate
from mmjax.run.session import Session


class Scripted:
    """A predictor whose loss is the number of rows that have a picture, times the seed."""

    def __init__(self, value: float = 1.0):
        self.value, self.seeds = value, []

    def losses(self, batch, seed=0):
        self.seeds.append(seed)
        rows = np.asarray(batch["image"].mask).reshape(len(batch["image"].mask), -1).any(1).sum()
        return {"loss/x": np.float32(self.value * rows), "x/accuracy": np.float32(seed)}


def test_batches_weigh_by_their_examples_and_draw_from_fixed_seeds():
    """Seven examples in batches of four: four rows and three."""
    predictor = Scripted()
    metrics = Losses(data=dataset(), batch_size=4, seed=10)(predictor).metrics
    assert predictor.seeds == [10, 11]
    assert metrics == {
        "loss/x": pytest.approx((4 * 4 + 3 * 3) / 7),
        "x/accuracy": pytest.approx((4 * 10 + 3 * 11) / 7),
        "num_examples": 7.0,
    }


def test_nothing_to_measure_and_not_a_number_are_refused():
    empty = dataclasses.replace(dataset(), source=dataclasses.replace(dataset().source, records=()))
    with pytest.raises(InputError, match="no example of the data has any stream"):
        Losses(data=empty)(Scripted())
    with pytest.raises(NonFiniteError, match="loss/x"):
        Losses(data=dataset())(Scripted(float("nan")))


def test_they_are_the_losses_of_the_learner(tmp_path):
    """A model with dropout in none of its parts: what training would log of the same rows."""
    made = load(str(tiny.write(tmp_path, tiny.DRAWN_WORDS)))
    setup = Session.of(made, jax.devices()[:1])
    state = setup.new_state()
    held_out = made.evals["retrieval"].data
    found = Losses(data=held_out, batch_size=8, seed=3)(setup.predictor(state)).metrics
    batch = jax.tree.map(jnp.asarray, next(data.epoch(held_out, 8)))
    rngs = {"views": jax.random.key(3)}
    _, expected = setup.learner.apply({"params": state.params}, batch, rngs=rngs, method="weighted_losses")
    assert found.pop("num_examples") == 8
    assert found.keys() == expected.keys() >= {"loss/pairs", "loss/words", "words/accuracy"}
    for name, value in found.items():
        assert value == pytest.approx(float(expected[name]), rel=1e-4), name


def test_held_out_data_give_every_stream_that_objectives_read(tmp_path):
    made = load(str(tiny.write(tmp_path)))
    assert isinstance(made.evals["retrieval"], Retrieval)
    whole = made.evals["retrieval"].data
    lacking = dataclasses.replace(whole, streams={"image": whole.streams["image"]})
    validate(dataclasses.replace(made, evals={"held_out": Losses(data=whole)}))
    with pytest.raises(InputError, match=r"needs the stream 'text', but the data of eval 'held_out' give"):
        validate(dataclasses.replace(made, evals={"held_out": Losses(data=lacking)}))
