"""Distillation between two heads of one model, e.g. from one modality to another."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Float32

from mmjax.batch import is_present
from mmjax.objectives.base import Metrics, Objective, Outputs, masked_mean
from mmjax.objectives.means import Mean, count
from mmjax.ranges import Positive


class Distillation(Objective):
    """One head learns the softened predictions of another (Hinton et al. 2015, section 2).

    student, teacher: names of heads with logits over the same classes, "B ... classes": e.g. a head of a lips
      video and one of the speech. The teacher gets no gradient from this loss: give it an objective.
    streams: rows that lack any of these streams are ignored. None: the streams named as the two heads.
    position_mask: for logits with positions, the view's target that is True at the positions to use, e.g.
      "masked".
    temperature: T in the loss T^2 KL(teacher || student). The factor keeps the size of the gradient.
    """

    student: str
    teacher: str
    streams: tuple[str, ...] | None = None
    position_mask: str | None = None
    temperature: Positive = 2.0

    def required_heads(self):
        return (self.student, self.teacher)

    def target_streams(self):
        return self.streams or self.required_heads()

    def paired_streams(self):
        return self.target_streams()

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        student, teacher = (outputs.predictions[head] for head in self.required_heads())
        rows = jnp.stack([is_present(outputs.batch[stream]) for stream in self.target_streams()]).all(0)
        valid = rows.reshape(-1, *(1,) * (student.ndim - 2)) & jnp.ones(student.shape[:-1], bool)
        if self.position_mask is not None:
            valid &= outputs.target(self.position_mask)
        loss, agreement = distill(student, teacher, valid, self.temperature)
        return Mean(loss, count(valid)), {"agreement": Mean(agreement, count(valid))}


def distill(
    student: Float[jax.Array, "*B C"],
    teacher: Float[jax.Array, "*B C"],
    valid: Bool[jax.Array, "*B"],
    temperature: float,
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """(mean of `T^2 sum p (log p - log q)`, fraction with equal argmax), over valid rows or positions."""
    teacher = jax.lax.stop_gradient(teacher)
    log_p, log_q = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature, axis=-1) for x in (teacher, student)
    )
    divergence = optax.losses.kl_divergence_with_log_targets(log_q, log_p)
    is_equal = (teacher.argmax(-1) == student.argmax(-1)).astype(jnp.float32)
    return temperature**2 * masked_mean(divergence, valid), masked_mean(is_equal, valid)
