"""Every fusion computes on a mesh what it computes on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_fusion import FUSION
from test_catalog import boxed_parameters, parameters

from mmjax import sharding
from mmjax.sharding import FSDP_TENSOR_SEQUENCE, MeshShape
from mmjax.testing import TOLERANCE

pytestmark = pytest.mark.once

# Of each kind the form with a reader, where it has one: it runs all that the other does, and more.
FORMS = {row.name.split(".")[1]: row for row in FUSION}


@pytest.mark.parametrize("kind", sorted(FORMS.keys() - {"Late"}))
def test_results_and_gradients_do_not_depend_on_the_mesh(kind):
    row = FORMS[kind]
    mesh = MeshShape(data=1, fsdp=2, sequence=2, tensor=2).make()
    rules = FSDP_TENSOR_SEQUENCE
    encoded = jax.tree.map(jnp.asarray, row.inputs()[0])

    def loss(params, encoded):
        fused = row.make("float32").apply({"params": params}, encoded)
        seen = {name: jnp.where(x.mask[..., None], x.embeddings, 0) for name, x in fused.items()}
        weighed = [
            (x * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)).sum() for x in seen.values()
        ]
        return sum(weighed), seen

    def run(params):
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, encoded)

    expected = run(parameters(row.name))
    shardings = sharding.array_shardings(boxed_parameters(row.name), mesh, rules)
    assert any(any(s.spec) for s in jax.tree.leaves(shardings))
    with sharding.using(mesh, rules):
        found = run(jax.tree.map(jax.device_put, parameters(row.name), shardings))
    size = max(float(np.abs(x).max()) for x in jax.tree.leaves(expected))
    close = {"rtol": TOLERANCE["sharded"], "atol": TOLERANCE["sharded"] * max(1.0, size)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), found, expected)
