"""Every fusion gives equal results on a mesh and on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_fusion import FUSION
from fusion_inputs import weighted_sum
from test_catalog import boxed_parameters, parameters

from mmjax import sharding
from mmjax.sharding import FSDP_TENSOR_SEQUENCE, MeshShape
from mmjax.testing import TOLERANCE

pytestmark = pytest.mark.once

# The last catalog row of each fusion: the one with an updated_stream if there is one, which runs more code.
ROWS = {row.name.split(".")[1]: row for row in FUSION}


@pytest.mark.parametrize("kind", sorted(ROWS.keys() - {"Late"}))
def test_results_and_gradients_do_not_depend_on_the_mesh(kind):
    row = ROWS[kind]
    mesh = MeshShape(data=1, fsdp=2, sequence=2, tensor=2).make()
    rules = FSDP_TENSOR_SEQUENCE
    encoded = jax.tree.map(jnp.asarray, row.inputs()[0])

    def loss(params, encoded):
        return weighted_sum(row.make("float32").apply({"params": params}, encoded))

    def run(params):
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, encoded)

    expected = run(parameters(row.name))
    shardings = sharding.array_shardings(boxed_parameters(row.name), mesh, rules)
    assert any(any(s.spec) for s in jax.tree.leaves(shardings))
    with sharding.using(mesh, rules):
        actual = run(jax.tree.map(jax.device_put, parameters(row.name), shardings))
    size = max(float(np.abs(x).max()) for x in jax.tree.leaves(expected))
    close = {"rtol": TOLERANCE["sharded"], "atol": TOLERANCE["sharded"] * max(1.0, size)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), actual, expected)
