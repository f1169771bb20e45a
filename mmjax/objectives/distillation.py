"""One modality teaches another."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from mmjax.batch import is_present
from mmjax.objectives.base import Outputs, masked_mean
from mmjax.views import Identity, View


class Distillation(nn.Module):
    """One head learns the softened answer of another (Hinton et al. 2015, section 2), within one model.

    student, teacher: names of heads with logits over the same classes, ``"B ... classes"``: e.g. a head of
      the lips and one of the speech, or one after fusion. No gradient reaches the teacher from here: give it
      an objective of its own.
    streams: a row counts where all of them are there; by default those named as the two heads.
    positions: where the logits have positions, the target of the view that says which count, e.g. `masked`.
    The loss is T^2 KL(teacher || student) at temperature T, so that its gradient keeps its size as T changes.
    """

    student: str
    teacher: str
    streams: tuple[str, ...] | None = None
    positions: str | None = None
    temperature: float = 2.0
    weight: float = 1.0
    view: View = Identity()

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.student, self.teacher)

    def target_streams(self) -> tuple[str, ...]:
        """The streams that the data must hold."""
        return self.streams or self.required_heads()

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        student, teacher = (outputs.predictions[head] for head in self.required_heads())
        counted = jnp.stack([is_present(outputs.batch[stream]) for stream in self.target_streams()]).all(0)
        counted = counted.reshape(-1, *(1,) * (student.ndim - 2)) & jnp.ones(student.shape[:-1], bool)
        if self.positions is not None:
            counted &= outputs.targets[self.positions]
        loss, agreement = distill(student, teacher, counted, self.temperature)
        return loss, {"agreement": agreement}


def distill(
    student: Float[jax.Array, "*B C"],
    teacher: Float[jax.Array, "*B C"],
    counted: Bool[jax.Array, "*B"],
    temperature: float,
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """Mean of ``T^2 sum p (log p - log q)`` over what counts; how often both prefer the same class."""
    teacher = jax.lax.stop_gradient(teacher)
    log_p, log_q = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature, axis=-1) for x in (teacher, student)
    )
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
    same = (teacher.argmax(-1) == student.argmax(-1)).astype(jnp.float32)
    return temperature**2 * masked_mean(divergence, counted), masked_mean(same, counted)
