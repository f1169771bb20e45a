"""A trained model as a function of NumPy batches."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.batch import Batch
from mmjax.learner import Learner
from mmjax.sharding import REPLICATED, MeshShape, Rules
from mmjax.sharding.mesh import MeshFunction
from mmjax.views import View


class Predictor:
    """(batch, view, heads) -> (predictions, targets) in NumPy. Compiles once per view, heads and shapes.

    With several processes, all must pass the same batch, and each gets the whole result.
    """

    def __init__(self, learner: Learner, params: dict, mesh: Mesh | None = None, rules: Rules = REPLICATED):
        """mesh: the mesh of `params`; None: they are on the first local device."""
        self.learner, self.params, self.rules = learner, params, rules
        self.mesh = MeshShape().make(jax.local_devices()[:1]) if mesh is None else mesh
        self._compiled = functools.cache(self._compile)
        self._compiled_losses = functools.cache(self._compile_losses)

    def __call__(
        self, batch: Batch, view: View, heads: tuple[str, ...], seed: int = 0
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Predictions "B ..." of the heads and the view's targets "B ...". `seed` seeds a random view."""
        outputs = self._compiled(view, tuple(heads))(self.params, batch, np.uint32(seed))
        return jax.tree.map(np.asarray, jax.device_get(outputs))

    def losses(self, batch: Batch, seed: int = 0) -> dict[str, np.ndarray]:
        """{"loss/<objective>", "<objective>/<metric>"}, scalars as in training but without dropout."""
        metrics = self._compiled_losses()(self.params, batch, np.uint32(seed))
        return jax.tree.map(np.asarray, jax.device_get(metrics))

    def _compile(self, view: View, heads: tuple[str, ...]) -> MeshFunction:
        def predict(params, batch, seed):
            rngs = {"views": jax.random.key(seed)}
            return self.learner.apply({"params": params}, batch, view, heads, rngs=rngs, method="predict")

        return self._on_mesh(predict)

    def _compile_losses(self) -> MeshFunction:
        def losses(params, batch, seed):
            rngs = {"views": jax.random.key(seed)}
            return self.learner.apply({"params": params}, batch, rngs=rngs, method="weighted_losses")[1]

        return self._on_mesh(losses)

    def _on_mesh(self, function: Callable) -> MeshFunction:
        # Replicated outputs, because a process cannot read the shards of another one.
        replicated = NamedSharding(self.mesh, PartitionSpec()) if jax.process_count() > 1 else None
        return MeshFunction(jax.jit(function, out_shardings=replicated), self.mesh, self.rules)
