"""Distillation against a loop in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_objectives import outputs, values
from catalog.row import B, normal

from mmjax import objectives
from mmjax.testing import TOLERANCE

TEMPERATURE = 3.0


def softened(logits) -> np.ndarray:
    exponentials = np.exp(np.float64(logits) / TEMPERATURE)
    return exponentials / exponentials.sum()


@pytest.mark.parametrize("positions", [False, True], ids=["rows", "positions"])
def test_distillation(positions):
    """Row 3 has no image and is ignored, and so are positions that are not in `masked`."""
    shape = (B, 5, 3) if positions else (B, 3)
    student, teacher = normal(*shape), normal(*shape, seed=1)
    masked = normal(B, 5, seed=2) > 0
    inputs = jax.tree.map(
        jnp.asarray, outputs({"image": student, "speech": teacher}, {"masked": masked} if positions else {})
    )
    module = objectives.Distillation(
        "image",
        "speech",
        streams=("image", "text"),
        position_mask="masked" if positions else None,
        temperature=TEMPERATURE,
    )
    losses, is_equal = [], []
    for index in np.ndindex(shape[:-1]):
        if index[0] == 3 or (positions and not masked[index]):
            continue
        p, q = softened(teacher[index]), softened(student[index])
        losses.append(TEMPERATURE**2 * sum(p * np.log(p / q)))
        is_equal.append(p.argmax() == q.argmax())

    @jax.jit
    def run(predictions):
        return values(module.apply)({}, inputs.replace(predictions=predictions))

    loss, metrics = run(inputs.predictions)
    expected = (np.mean(losses), np.mean(is_equal))
    np.testing.assert_allclose((loss, metrics["agreement"]), expected, rtol=TOLERANCE["fp32_module"])
    grads = jax.grad(lambda predictions: run(predictions)[0])(inputs.predictions)
    assert (grads["speech"] == 0).all() and (grads["image"][3] == 0).all()
    assert (grads["image"][:3] != 0).any()


def test_streams_are_named_as_the_heads_by_default():
    assert objectives.Distillation("image", "audio").target_streams() == ("image", "audio")
    assert objectives.Distillation("lips", "both", streams=("image",)).target_streams() == ("image",)
