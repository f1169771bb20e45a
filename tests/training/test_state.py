"""A train state prints as one line, wherever it is."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.training import TrainState


def make_state() -> TrainState:
    params = {"model": {"table": jnp.zeros((100, 10)), "bias": jnp.zeros(5, jnp.bfloat16)}}
    key = jnp.zeros(2, jnp.uint32)
    return TrainState(step=jnp.int32(7), params=params, opt_state=(jnp.zeros(10),), key=key)


def test_a_state_prints_as_one_line():
    state = make_state()
    assert repr(state) == "TrainState(step=7, 1,005 parameters, 0.0 MB)"
    assert repr(jax.eval_shape(lambda: state)) == "TrainState(step=?, 1,005 parameters, 0.0 MB)"
    printed = []
    jax.jit(lambda s: printed.append(repr(s)) or s.step)(state)
    assert printed == ["TrainState(step=?, 1,005 parameters, 0.0 MB)"]
    state.step.delete()
    assert repr(state).startswith("TrainState(step=?, ")
    assert repr(make_state().replace(step=np.int32(3))).startswith("TrainState(step=3, ")
