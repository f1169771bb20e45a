"""Encoders of audio by its spectrogram."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Audio, Encoded
from mmjax.encoders.base import Encoder
from mmjax.encoders.convolutional import ConvSpectrogram
from mmjax.encoders.projection import project
from mmjax.encoders.spectrogram import LogMel, SpecAugment
from mmjax.encoders.visible import gather_visible, insert_mask_token
from mmjax.layers import Conv1d, LearnedPositions, Transformer, mask_for_stride
from mmjax.ranges import Depth, Dtype, Kernel, NonNegative, Size
from mmjax.sharding import param_axes


class FramePatches(nn.Module):
    """Maps each patch of the spectrogram linearly to a token (AST, Gong et al. 2021, without overlap).

    frames, mels: the size of a patch; `mels` None: the whole mel axis.
    """

    frames: Size
    mels: Size | None = None
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], width: int
    ) -> tuple[Float[jax.Array, "B L {width}"], Bool[jax.Array, "B L"]]:
        """Returns tokens ordered by time, then mel, and their mask."""
        patches, mask = split_frames(mel, mask, self.frames, self.mels)
        mask = mask.any(-1)
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
    """

    depth: Depth = 2
    kernel_size: Kernel = 5
    stride: Kernel = 2
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], width: int
    ) -> tuple[Float[jax.Array, "B L {width}"], Bool[jax.Array, "B L"]]:
        """Returns one token for every `stride ** depth` frames, and their mask."""
        x = mel
        for i in range(self.depth):
            x, mask = mask_for_stride(x, mask, self.stride)
            x = nn.gelu(Conv1d(width, self.kernel_size, self.stride, dtype=self.dtype, name=f"conv_{i}")(x))
            mask = mask[:, :: self.stride]
        return x, mask


class SpectrogramTransformer(Encoder):
    """Log-mel spectrogram (computed on the device), stem, position embeddings and trunk.

    Masked patches are left out, as in Audio-MAE (Huang et al. 2022, section 3), or replaced by a learned
    vector if `mask_token`. They disable augmentation, since the spectrogram itself is the target.
    """

    mel: LogMel
    stem: FramePatches | ConvFrames | ConvSpectrogram
    trunk: Transformer
    augment: SpecAugment | None = None
    position_init_std: NonNegative = 1.0
    mask_token: bool = False

    @property
    def hides_patches(self):
        return True

    @nn.compact
    def __call__(self, audio: Audio, train: bool = False) -> Encoded:
        if audio.visible is not None and not isinstance(self.stem, FramePatches):
            raise ValueError(
                f"a view masks patches, but the windows of {type(self.stem).__name__} overlap: tokens "
                "beside a masked patch would contain a part of it; use the stem FramePatches"
            )
        mel, mask = self.mel(audio.samples, audio.mask)
        if train and self.augment is not None and audio.visible is None:
            mel, mask = self.augment(mel, mask, self.make_rng("views"))
        x, mask = self.stem(mel, mask, self.trunk.width)
        if self.mask_token:
            token = self.param("mask_token", param_axes(nn.initializers.normal(0.02), "embed"), x.shape[-1:])
            x = insert_mask_token(x, audio.visible, token)
        x, patch_indices = LearnedPositions(x.shape[1], self.position_init_std, name="positions")(x), None
        if audio.visible is not None and not self.mask_token:
            x, mask, patch_indices = gather_visible(x, mask, audio.visible)
        return self.trunk.encode(x, mask, train).replace(patch_indices=patch_indices)
