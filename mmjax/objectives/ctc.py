"""Say what was said, without being told when."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Float32, Int

from mmjax.batch import Text
from mmjax.data.vocabulary import PAD_ID
from mmjax.objectives.base import Outputs, masked_mean
from mmjax.views import Identity, View


class CTC(nn.Module):
    """Connectionist temporal classification (Graves et al. 2006, eq. 8): -log p of the tokens, over all
    their alignments with the frames, by optax; divided by their number; mean over examples.

    head: a FrameLogits head of a sound or a clip. stream: the text that it says, special tokens left out. An
    example without text or sound counts nothing, nor does one with too few frames (a frame a token, and one
    more between equal neighbours), for which the loss is infinite. Metric `counted`: the share of examples
    with both whose frames suffice; below 1, take shorter frames or longer tokens.
    """

    head: str
    stream: str = "text"
    weight: float = 1.0
    blank_id: int = PAD_ID
    view: View = Identity()

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """The streams that it reads itself, which the data or the view must give."""
        return (self.stream,)

    def check_compatible(self, model: Any, streams: Mapping[str, Any]) -> str | None:
        """Why the head cannot say the text; None: it can."""
        tokenizer = getattr(streams.get(self.stream), "tokenizer", None)
        found = getattr(model.heads[self.head], "vocab", None)
        if found is None:
            return (
                f"the head {self.head!r} is a {type(model.heads[self.head]).__name__}: expected FrameLogits"
            )
        if tokenizer is not None and found < tokenizer.vocab_size:
            return (
                f"the stream {self.stream!r} has a vocabulary of {tokenizer.vocab_size}: expected at least "
                f"that in model.heads.{self.head}.vocab, found {found}"
            )
        return None

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        frames = outputs.predictions[self.head]
        labels, num_labels = labels_of(outputs.batch[self.stream])
        here = (num_labels > 0) & frames.mask.any(1)
        enough = here & (frames.mask.sum(1) >= frames_needed(labels, num_labels))
        loss = ctc(frames.logits, frames.mask, labels, jnp.where(enough, num_labels, 0), self.blank_id)
        loss = masked_mean(loss / jnp.maximum(num_labels, 1), enough)
        return loss, {"counted": masked_mean(enough.astype(jnp.float32), here)}


def labels_of(text: Text) -> tuple[Int[jax.Array, "B L"], Int[jax.Array, " B"]]:
    """The tokens that are part of words, moved to the front of their rows, and how many they are."""
    spoken = text.mask & (text.words >= 0)
    order = jnp.argsort(~spoken, axis=1, stable=True)
    return jnp.take_along_axis(text.tokens, order, axis=1), spoken.sum(1)


def frames_needed(labels: Int[jax.Array, "B L"], num_labels: Int[jax.Array, " B"]) -> Int[jax.Array, " B"]:
    """The fewest frames with which a row's labels can be said: equal neighbours need a blank in between."""
    inner = jnp.arange(1, labels.shape[1])[None] < num_labels[:, None]
    return num_labels + ((labels[:, 1:] == labels[:, :-1]) & inner).sum(1)


def ctc(
    logits: Float[jax.Array, "B T V"],
    frames: Bool[jax.Array, "B T"],
    labels: Int[jax.Array, "B L"],
    num_labels: Int[jax.Array, " B"],
    blank_id: int,
) -> Float32[jax.Array, " B"]:
    """-log p(the first `num_labels` labels) of each row; 0, and no gradient, for a row without labels."""
    some = num_labels > 0
    # On the inputs: what is impossible must not be worked out, or its gradient would be NaN times zero.
    logits = jnp.where((frames & some[:, None])[..., None], logits.astype(jnp.float32), 0.0)
    padding = (jnp.arange(labels.shape[1])[None] >= num_labels[:, None]).astype(jnp.float32)
    loss = optax.ctc_loss(logits, 1.0 - frames.astype(jnp.float32), labels, padding, blank_id=blank_id)
    return jnp.where(some, loss, 0.0)
