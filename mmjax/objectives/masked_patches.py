"""Prediction of masked patches: their pixels, log-mel values or codes."""

import dataclasses

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from mmjax.encoders import LogMel
from mmjax.encoders.audio import split_frames
from mmjax.encoders.image import split_patches
from mmjax.objectives.base import (
    Metrics,
    OneHeadObjective,
    Outputs,
    masked_accuracy,
    masked_cross_entropy,
    masked_mean,
)
from mmjax.objectives.means import Mean, count
from mmjax.ranges import Size
from mmjax.views import View


class MaskedPatches(OneHeadObjective):
    """Mean squared error of the masked patches' pixels (He et al. 2022, MAE, section 3).

    head: a Reconstruction head.
    stream: the Image.
    patch: (height, width), the patch size of the encoder's stem.
    view: one with the target `masked_patches`, such as MaskPatches.
    normalise: standardise each patch by its mean and deviation, for better features (MAE, section 4.1).
    """

    stream: str
    patch: tuple[Size, Size]
    normalise: bool = False
    view: View = dataclasses.field(kw_only=True)

    def target_streams(self):
        return (self.stream,)

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        patches = image_patches(outputs.batch[self.stream].pixels, self.patch)
        masked = patch_mask(outputs, patches)
        return reconstruction_loss(
            self.head,
            outputs.predictions[self.head],
            standardise(patches) if self.normalise else patches,
            jnp.broadcast_to(masked, patches.shape),
        )


class MaskedSpectrogram(OneHeadObjective):
    """Mean squared error of the masked patches' log-mel values (Huang et al. 2022, Audio-MAE, section 3).

    stream: the Audio. mel, frames, mels: those of the encoder and its FramePatches. Padding frames are
    ignored. Other fields as MaskedPatches'.
    """

    stream: str
    mel: LogMel
    frames: Size
    mels: Size | None = None
    normalise: bool = False
    view: View = dataclasses.field(kw_only=True)

    def target_streams(self):
        return (self.stream,)

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        audio = outputs.batch[self.stream]
        patches, valid = split_frames(*self.mel(audio.samples, audio.mask), self.frames, self.mels)
        return reconstruction_loss(
            self.head,
            outputs.predictions[self.head],
            standardise(patches, valid) if self.normalise else patches,
            valid & patch_mask(outputs, patches),
        )


class MaskedCodes(OneHeadObjective):
    """Cross-entropy of the masked patches' codes (Bao et al. 2022, BEiT, eq. 2).

    head: a Reconstruction head with `patch_dim` = the number of codes.
    quantiser: a PatchQuantiser head of a stream with the unmasked image, under the same view. It gets no
      gradient from this loss.
    view: one with the target `masked_patches`, such as MaskPatches.
    """

    quantiser: str
    view: View = dataclasses.field(kw_only=True)

    def required_heads(self):
        return (self.head, self.quantiser)

    def __call__(self, outputs: Outputs) -> tuple[Mean, Metrics]:
        logits, masked = outputs.predictions[self.head], outputs.target("masked_patches")
        quantised = outputs.predictions[self.quantiser]
        if (expected := (*quantised.codes.shape, quantised.num_codes)) != logits.shape:
            raise ValueError(
                f"the head {self.head!r} gives logits of shape {logits.shape}, and {self.quantiser!r} codes "
                f"for {expected}: expected num_patches={expected[1]} and patch_dim={expected[2]}"
            )
        loss = masked_cross_entropy(logits, quantised.codes, masked)
        num = count(masked)
        return Mean(loss, num), {"accuracy": Mean(masked_accuracy(logits, quantised.codes, masked), num)}


def patch_mask(outputs: Outputs, patches: Float[jax.Array, "B L P"]) -> Bool[jax.Array, "B L 1"]:
    """True at the patches that the view masks. Raises ValueError if their number differs."""
    masked = outputs.target("masked_patches")
    if masked.shape != patches.shape[:2]:
        raise ValueError(
            f"the view's grid has {masked.shape[1]} patches, and the input has {patches.shape[1]}: expected "
            "a `grid` that fits the size of the patches"
        )
    return masked[..., None]


def image_patches(
    pixels: Float[jax.Array, "B height width channel"], patch: tuple[int, int]
) -> Float[jax.Array, "B L P"]:
    """Each patch as a vector, in reading order."""
    return einops.rearrange(split_patches(pixels, patch), "B L h w c -> B L (h w c)")


def standardise(
    patches: Float[jax.Array, "B L P"], valid: Bool[jax.Array, "B L P"] | None = None
) -> Float32[jax.Array, "B L P"]:
    """Scales each patch to mean 0 and deviation 1 over its valid values; a constant patch becomes 0."""
    weight = jnp.ones(patches.shape) if valid is None else valid.astype(jnp.float32)
    count = jnp.maximum(weight.sum(-1, keepdims=True), 1)
    centred = (patches - (patches * weight).sum(-1, keepdims=True) / count) * weight
    variance = jnp.square(centred).sum(-1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + 1e-6)


def reconstruction_loss(
    head: str,
    predicted: Float[jax.Array, "B L P"],
    patches: Float[jax.Array, "B M Q"],
    mask: Bool[jax.Array, "B M Q"],
) -> tuple[Mean, Metrics]:
    """(mean of `(predicted - patches)^2` under the mask, {"explained": fraction of the variance explained}).

    Args:
      head: the head's name, for the error if the shapes differ.
    """
    if predicted.shape != patches.shape:
        raise ValueError(
            f"the head {head!r} predicts patches of shape {predicted.shape}, and the input's have shape "
            f"{patches.shape}: expected num_patches={patches.shape[1]} and patch_dim={patches.shape[2]}"
        )
    loss = masked_mean(jnp.square(predicted - patches), mask)
    variance = masked_mean(jnp.square(patches - masked_mean(patches, mask)), mask)
    explained = jnp.where(variance > 0, 1 - loss / jnp.where(variance > 0, variance, 1), 0)
    num = count(mask)
    return Mean(loss, num), {"explained": Mean(explained, jnp.where(variance > 0, num, 0.0))}
