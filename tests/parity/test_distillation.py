"""What one head learns of another, against a loop in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_objectives import outputs
from catalog.row import B, normal

from mmjax import objectives
from mmjax.testing import TOLERANCE

TEMPERATURE = 3.0


def softened(logits) -> np.ndarray:
    powers = np.exp(np.float64(logits) / TEMPERATURE)
    return powers / powers.sum()


@pytest.mark.parametrize("positions", [False, True], ids=["rows", "positions"])
def test_distillation(positions):
    """Row 3 has no picture; of positions, those that are masked count."""
    shape = (B, 5, 3) if positions else (B, 3)
    student, teacher = normal(*shape), normal(*shape, seed=1)
    masked = normal(B, 5, seed=2) > 0
    made = jax.tree.map(
        jnp.asarray, outputs({"image": student, "speech": teacher}, {"masked": masked} if positions else {})
    )
    module = objectives.Distillation(
        "image",
        "speech",
        streams=("image", "text"),
        position_mask="masked" if positions else None,
        temperature=TEMPERATURE,
    )
    losses, same = [], []
    for place in np.ndindex(shape[:-1]):
        if place[0] == 3 or (positions and not masked[place]):
            continue
        p, q = softened(teacher[place]), softened(student[place])
        losses.append(TEMPERATURE**2 * sum(p * np.log(p / q)))
        same.append(p.argmax() == q.argmax())

    @jax.jit
    def run(predictions):
        return module.apply({}, made.replace(predictions=predictions))

    loss, metrics = run(made.predictions)
    expected = (np.mean(losses), np.mean(same))
    np.testing.assert_allclose((loss, metrics["agreement"]), expected, rtol=TOLERANCE["fp32_module"])
    grads = jax.grad(lambda predictions: run(predictions)[0])(made.predictions)
    assert (grads["speech"] == 0).all() and (grads["image"][3] == 0).all()
    assert (grads["image"][:3] != 0).any()


def test_the_streams_that_are_needed_are_those_of_the_heads_unless_told():
    assert objectives.Distillation("image", "audio").target_streams() == ("image", "audio")
    assert objectives.Distillation("lips", "both", streams=("image",)).target_streams() == ("image",)
