"""Encoders of audio by its spectrogram."""

from typing import Literal

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from mmjax.batch import Audio, Encoded
from mmjax.encoders.base import Encoder
from mmjax.encoders.convolutional import ConvSpectrogram
from mmjax.encoders.projection import project
from mmjax.encoders.spectrogram import LogMel, SpecAugment
from mmjax.encoders.visible import gather_visible, insert_mask_token
from mmjax.layers import ACTIVATIONS, Conv1d, LearnedPositions, Transformer, mask_for_stride
from mmjax.layers.conv import extract_windows
from mmjax.ranges import Activation, Depth, Dtype, Kernel, NonNegative, Size, SizeOrZero
from mmjax.sharding import param_axes


class FramePatches(nn.Module):
    """Maps each patch of the spectrogram linearly to a token (AST, Gong et al. 2021).

    frames, mels: the size of a patch; `mels` None: the whole mel axis.
    strides: from one patch to the next, in frames and mels; patches may overlap, and a last one
      that would not be whole is left out. None: patches side by side, the last one filled with masked frames.
    order: "time": tokens are ordered by time, then mel. "mel": by mel, then time, as in AST.
    """

    frames: Size
    mels: Size | None = None
    strides: tuple[Size, Size] | None = None
    order: Literal["time", "mel"] = "time"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], width: int
    ) -> tuple[Float[jax.Array, "B L {width}"], Bool[jax.Array, "B L"]]:
        """Returns tokens and their mask: a patch is valid if any of its frames is."""
        num_mels = self.mels or mel.shape[2]
        if self.strides is None:
            patches, mask = split_frames(mel, mask, self.frames, num_mels)
            mask = mask.any(-1)
            per_frame = mel.shape[2] // num_mels
        else:
            mel = jnp.where(mask[..., None], mel, 0)
            mask = extract_windows(mask[..., None], self.frames, self.strides[0], 1, "valid").any(-1)
            x = extract_windows(mel[..., None], self.frames, self.strides[0], 1, "valid")
            x = extract_windows(x, num_mels, self.strides[1], 2, "valid")
            per_frame = x.shape[2]
            patches = einops.rearrange(x, "B T M (m t) -> B (T M) (t m)", m=num_mels)
            mask = jnp.repeat(mask, per_frame, axis=1)
        if self.order == "mel":
            patches = einops.rearrange(patches, "B (T M) P -> B (M T) P", M=per_frame)
            mask = einops.rearrange(mask, "B (T M) -> B (M T)", M=per_frame)
        x = project(patches, width, self.dtype)
        return x, mask


def split_frames(
    mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], frames: int, mels: int | None
) -> tuple[Float[jax.Array, "B L P"], Bool[jax.Array, "B L P"]]:
    """Returns patches of `frames` x `mels` (None: all), ordered by time, and a mask of their values."""
    num_mels = mels or mel.shape[2]
    if mel.shape[2] % num_mels:
        raise ValueError(f"{mel.shape[2]} mels do not divide into patches of {num_mels}")
    # Add masked frames rather than drop the last ones, so that their number does not depend on the padding.
    mel, mask = mask_for_stride(mel, mask, frames)
    valid = jnp.broadcast_to(mask[..., None], mel.shape)
    mel, valid = (
        einops.rearrange(x, "B (T t) (M m) -> B (T M) (t m)", t=frames, m=num_mels) for x in (mel, valid)
    )
    return mel, valid


class ConvFrames(nn.Module):
    """`depth` convolutions over time with GELU, as the stem of Whisper's encoder (Radford et al. 2022).

    Masked frames are zeroed before each convolution, so that padding has no influence.

    strides: those of each convolution; None: each has `stride`.
    padding: where the windows lie, see `Conv1d`.
    """

    depth: Depth = 2
    kernel_size: Kernel = 5
    stride: Kernel = 2
    strides: tuple[Kernel, ...] | None = None
    padding: Literal["same", "centred"] = "same"
    activation: Activation = "gelu_tanh"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], width: int
    ) -> tuple[Float[jax.Array, "B L {width}"], Bool[jax.Array, "B L"]]:
        """Returns one token for as many frames as the product of the strides, and their mask."""
        strides = (self.stride,) * self.depth if self.strides is None else self.strides
        if len(strides) != self.depth:
            raise ValueError(
                f"expected a stride for each of depth={self.depth} convolutions, found {strides}"
            )
        x = mel
        for i, stride in enumerate(strides):
            x, mask = mask_for_stride(x, mask, stride)
            x = Conv1d(width, self.kernel_size, stride, self.padding, dtype=self.dtype, name=f"conv_{i}")(x)
            x = ACTIVATIONS[self.activation](x)
            mask = mask[:, ::stride]
        return x, mask


class SpectrogramTransformer(Encoder):
    """Log-mel spectrogram (computed on the device), stem, position embeddings and trunk.

    Masked patches are left out, as in Audio-MAE (Huang et al. 2022, section 3), or replaced by a learned
    vector if `mask_token`. They disable augmentation, since the spectrogram itself is the target.

    max_length: rows of the table of positions; None: as many as the first input has.
    num_class_tokens: learned tokens with positions in front of the others, valid where the clip is present
      (AST has two).
    """

    mel: LogMel
    stem: FramePatches | ConvFrames | ConvSpectrogram
    trunk: Transformer
    augment: SpecAugment | None = None
    position_init_std: NonNegative = 1.0
    mask_token: bool = False
    max_length: Size | None = None
    num_class_tokens: SizeOrZero = 0

    @property
    def hides_patches(self):
        return True

    def __call__(self, audio: Audio, train: bool = False) -> Encoded:
        is_apart = isinstance(self.stem, FramePatches) and self.stem.strides is None
        if audio.visible is not None and not (is_apart and self.stem.order == "time"):
            raise ValueError(
                f"a view masks patches, but the windows of {type(self.stem).__name__} overlap: tokens "
                "beside a masked patch would contain a part of it; use the stem FramePatches without strides"
            )
        mel, mask = self.mel(audio.samples, audio.mask)
        return self.encode_mel(mel, mask, train, audio.visible)

    @nn.compact
    def encode_mel(
        self,
        mel: Float[jax.Array, "B frames mels"],
        mask: Bool[jax.Array, "B frames"],
        train: bool = False,
        visible: Int32[jax.Array, "B visible"] | None = None,
    ) -> Encoded:
        """Encodes a spectrogram that was computed elsewhere; `visible` is that of `Audio`."""
        if train and self.augment is not None and visible is None:
            mel, mask = self.augment(mel, mask, self.make_rng("views"))
        x, mask = self.stem(mel, mask, self.trunk.width)
        if self.mask_token:
            token = self.param("mask_token", param_axes(nn.initializers.normal(0.02), "embed"), x.shape[-1:])
            x = insert_mask_token(x, visible, token)
        if self.num_class_tokens:
            init = param_axes(nn.initializers.normal(0.02), None, "embed")
            tokens = self.param("class_tokens", init, (self.num_class_tokens, self.trunk.width))
            x = jnp.concatenate([jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape)).astype(x.dtype), x], 1)
        length = self.max_length or x.shape[1]
        x, patch_indices = LearnedPositions(length, self.position_init_std, name="positions")(x), None
        first, x = x[:, : self.num_class_tokens], x[:, self.num_class_tokens :]
        is_present = mask.any(1, keepdims=True)
        if visible is not None and not self.mask_token:
            x, mask, patch_indices = gather_visible(x, mask, visible)
        if self.num_class_tokens:
            x = jnp.concatenate([first, x], 1)
            mask = jnp.concatenate([jnp.broadcast_to(is_present, first.shape[:2]), mask], 1)
            if patch_indices is not None:
                patch_indices = jnp.pad(patch_indices, ((0, 0), (first.shape[1], 0)), constant_values=-1)
        return self.trunk.encode(x, mask, train).replace(patch_indices=patch_indices)
