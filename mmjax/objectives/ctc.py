"""Transcription without an alignment between frames and tokens."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Float32, Int

from mmjax.batch import Text
from mmjax.data import TextTransform, Vocabulary
from mmjax.data.vocabulary import PAD_ID
from mmjax.heads import FrameLogits
from mmjax.objectives.base import Metrics, OneHeadObjective, Outputs, mean_where
from mmjax.objectives.means import Mean
from mmjax.ranges import Whole


class CTC(OneHeadObjective):
    """Connectionist temporal classification (Graves et al. 2006, eq. 8).

    -log p(tokens), summed over all alignments of tokens and frames, per token; mean over examples.

    head: a FrameLogits head of an Audio or Video stream.
    stream: the Text; special tokens are left out.
    blank_id: the token id of the blank.

    Rows without text or frames are ignored. So are rows with too few frames, whose loss would be infinite: a
    row needs one frame per token, and one more between equal neighbours. Metric `counted`: the fraction of
    rows with text and frames that have enough frames. If it is below 1, use shorter frames or longer tokens.
    """

    stream: str = "text"
    blank_id: Whole = PAD_ID

    def target_streams(self):
        return (self.stream,)

    def check_compatible(self, model, transforms):
        head, transform = model.heads[self.head], transforms.get(self.stream)
        if not isinstance(head, FrameLogits):
            return f"the head {self.head!r} is a {type(head).__name__}: expected FrameLogits"
        if self.blank_id >= head.vocab:
            return (
                f"blank_id={self.blank_id} is beyond the logits of the head {self.head!r}: expected less "
                f"than model.heads.{self.head}.vocab={head.vocab}"
            )
        if isinstance(transform, TextTransform) and head.vocab < transform.tokenizer.vocab_size:
            return (
                f"the stream {self.stream!r} has a vocabulary of {transform.tokenizer.vocab_size}: expected "
                f"at least that in model.heads.{self.head}.vocab, found {head.vocab}"
            )
        return None

    def check_vocabularies(self, vocabularies):
        vocabulary = vocabularies.get(self.stream)
        fault = None if vocabulary is None else blank_fault(self.blank_id, self.stream, vocabulary)
        return fault or super().check_vocabularies(vocabularies)

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        frames = outputs.predictions[self.head]
        labels, num_labels = word_tokens(outputs.batch[self.stream])
        valid = (num_labels > 0) & frames.mask.any(1)
        has_enough = valid & (frames.mask.sum(1) >= min_frames(labels, num_labels))
        num_used = jnp.where(has_enough, num_labels, 0)
        losses = ctc_loss(frames.logits, frames.mask, labels, num_used, self.blank_id)
        loss = mean_where(losses / jnp.maximum(num_labels, 1), has_enough)
        return loss, {"counted": mean_where(has_enough.astype(jnp.float32), valid)}


def blank_fault(blank_id: int, stream: str, vocabulary: Vocabulary) -> str | None:
    """Why `blank_id` cannot be the blank: it is the id of a token that words have. None: it can."""
    blanks = {name: number for name, number in vocabulary.special_ids.items() if name != "unk"}
    if blank_id in blanks.values() or blank_id >= vocabulary.size:
        return None
    return (
        f"blank_id={blank_id} is a token of the words in the stream {stream!r}: expected an id that no word "
        f"has, such as blank_id={vocabulary.pad_id}, the tokenizer's [PAD]"
    )


def word_tokens(text: Text) -> tuple[Int[jax.Array, "B L"], Int[jax.Array, " B"]]:
    """Moves the tokens that are part of words to the front of their rows; also returns their number."""
    is_word = text.mask & (text.words >= 0)
    order = jnp.argsort(~is_word, axis=1, stable=True)
    return jnp.take_along_axis(text.tokens, order, axis=1), is_word.sum(1)


def min_frames(labels: Int[jax.Array, "B L"], num_labels: Int[jax.Array, " B"]) -> Int[jax.Array, " B"]:
    """The minimal number of frames of a row: one per label, and a blank between equal neighbours."""
    is_inner = jnp.arange(1, labels.shape[1])[None] < num_labels[:, None]
    return num_labels + ((labels[:, 1:] == labels[:, :-1]) & is_inner).sum(1)


def ctc_loss(
    logits: Float[jax.Array, "B T V"],
    frame_mask: Bool[jax.Array, "B T"],
    labels: Int[jax.Array, "B L"],
    num_labels: Int[jax.Array, " B"],
    blank_id: int,
) -> Float32[jax.Array, " B"]:
    """-log p(the first `num_labels` labels) of each row; 0, with a gradient of 0, for rows without labels."""
    has_labels = num_labels > 0
    # Mask the logits and not only the loss: an infinite loss times a zero cotangent gives a NaN gradient.
    logits = jnp.where((frame_mask & has_labels[:, None])[..., None], logits.astype(jnp.float32), 0.0)
    padding = (jnp.arange(labels.shape[1])[None] >= num_labels[:, None]).astype(jnp.float32)
    loss = optax.ctc_loss(logits, 1.0 - frame_mask.astype(jnp.float32), labels, padding, blank_id=blank_id)
    return jnp.where(has_labels, loss, 0.0)
