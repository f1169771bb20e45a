"""See the patches that a view has hidden: pixels, log-mel values, or codes."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from mmjax.encoders import LogMel
from mmjax.encoders.audio import split_frames
from mmjax.encoders.image import split_patches
from mmjax.objectives.base import Outputs, masked_mean
from mmjax.objectives.masked_language import masked_cross_entropy
from mmjax.views import View


class MaskedPatches(nn.Module):
    """Mean squared error of the hidden patches' pixels (He et al. 2022, MAE, section 3).

    head: a Reconstruction head. stream: of the Image. patch: (height, width), as the encoder's stem has it.
    view: one with the target `hidden`, such as MaskPatches.
    normalise: each patch by its own mean and deviation, which made better features (MAE, section 4.1).
    """

    head: str
    stream: str
    patch: tuple[int, int]
    view: View
    normalise: bool = False
    weight: float = 1.0

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """The picture itself."""
        return (self.stream,)

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        patches = image_patches(outputs.batch[self.stream].pixels, self.patch)
        hidden = hidden_of(outputs, patches)
        return reconstruction_loss(
            self.head,
            outputs.predictions[self.head],
            standard(patches) if self.normalise else patches,
            jnp.broadcast_to(hidden, patches.shape),
        )


class MaskedSpectrogram(nn.Module):
    """Mean squared error of the hidden patches' log-mel values (Huang et al. 2022, Audio-MAE, section 3).

    mel, frames, mels: those of the encoder and its FramePatches. Values of frames that are padding never
    count. Other fields as MaskedPatches'.
    """

    head: str
    stream: str
    mel: LogMel
    frames: int
    view: View
    mels: int | None = None
    normalise: bool = False
    weight: float = 1.0

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head,)

    def target_streams(self) -> tuple[str, ...]:
        """The recording itself."""
        return (self.stream,)

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        audio = outputs.batch[self.stream]
        patches, valid = split_frames(*self.mel(audio.samples, audio.mask), self.frames, self.mels)
        return reconstruction_loss(
            self.head,
            outputs.predictions[self.head],
            standard(patches, valid) if self.normalise else patches,
            valid & hidden_of(outputs, patches),
        )


class MaskedCodes(nn.Module):
    """Cross-entropy of the hidden patches' codes (Bao et al. 2022, BEiT, eq. 2).

    head: a Reconstruction head with `patch_dim` = the number of codes. quantiser: a PatchQuantiser head, read
    in the same view, over a stream of the whole picture; it learns nothing from this loss.
    """

    head: str
    quantiser: str
    view: View
    weight: float = 1.0

    def required_heads(self) -> tuple[str, ...]:
        """The heads that it needs."""
        return (self.head, self.quantiser)

    def target_streams(self) -> tuple[str, ...]:
        """None: the quantiser gives them."""
        return ()

    def __call__(self, outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, hidden = outputs.predictions[self.head], outputs.target("hidden")
        quantised = outputs.predictions[self.quantiser]
        if (expected := (*quantised.codes.shape, quantised.num_codes)) != logits.shape:
            raise ValueError(
                f"the head {self.head!r} gives logits of shape {logits.shape}, and {self.quantiser!r} codes "
                f"for {expected}: expected num_patches={expected[1]} and patch_dim={expected[2]}"
            )
        right = (logits.argmax(-1) == quantised.codes).astype(jnp.float32)
        loss = masked_cross_entropy(logits, quantised.codes, hidden)
        return loss, {"accuracy": masked_mean(right, hidden)}


def hidden_of(outputs: Outputs, patches: Float[jax.Array, "B L P"]) -> Bool[jax.Array, "B L 1"]:
    """Which of the patches the view hides, or a ValueError if it divides the input into others."""
    hidden = outputs.target("hidden")
    if hidden.shape != patches.shape[:2]:
        raise ValueError(
            f"the view hides some of {hidden.shape[1]} patches, and the input has {patches.shape[1]}: "
            "expected a `grid` that fits the size of the patches"
        )
    return hidden[..., None]


def image_patches(
    pixels: Float[jax.Array, "B height width channel"], patch: tuple[int, int]
) -> Float[jax.Array, "B L P"]:
    """Each patch as a row of numbers."""
    return einops.rearrange(split_patches(pixels, patch), "B L h w c -> B L (h w c)")


def standard(
    patches: Float[jax.Array, "B L P"], valid: Bool[jax.Array, "B L P"] | None = None
) -> Float32[jax.Array, "B L P"]:
    """Each patch with mean 0 and deviation 1 over its valid values; a patch of one colour is 0."""
    weight = jnp.ones(patches.shape) if valid is None else valid.astype(jnp.float32)
    count = jnp.maximum(weight.sum(-1, keepdims=True), 1)
    centred = (patches - (patches * weight).sum(-1, keepdims=True) / count) * weight
    variance = jnp.square(centred).sum(-1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + 1e-6)


def reconstruction_loss(
    head: str,
    guess: Float[jax.Array, "B L P"],
    patches: Float[jax.Array, "B M Q"],
    counted: Bool[jax.Array, "B M Q"],
) -> tuple[Float32[jax.Array, ""], dict[str, jax.Array]]:
    """Mean of ``(guess - patches)^2`` where counted; the share of their variance that it explains."""
    if guess.shape != patches.shape:
        raise ValueError(
            f"the head {head!r} guesses patches of shape {guess.shape}, and the input's are {patches.shape}: "
            f"expected num_patches={patches.shape[1]} and patch_dim={patches.shape[2]}"
        )
    loss = masked_mean(jnp.square(guess - patches), counted)
    spread = masked_mean(jnp.square(patches - masked_mean(patches, counted)), counted)
    return loss, {"explained": jnp.where(spread > 0, 1 - loss / jnp.where(spread > 0, spread, 1), 0)}
