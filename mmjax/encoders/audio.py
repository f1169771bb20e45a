"""Audio towers."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Audio, Encoded
from mmjax.encoders.base import Encoder
from mmjax.encoders.convolutional import ConvSpectrogram
from mmjax.encoders.spectrogram import LogMel, SpecAugment
from mmjax.encoders.visible import only_visible, stand_in
from mmjax.layers import Conv1d, Einsum, LearnedPositions, Transformer
from mmjax.sharding import param_axes


class FramePatches(nn.Module):
    """Patches of `frames` x `mels` of the spectrogram, a linear map (AST, Gong et al. 2021, without overlap).

    `mels` None takes the whole mel axis, so that a token is a moment.
    """

    frames: int
    mels: int | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], width: int
    ) -> tuple[Float[jax.Array, "B L {width}"], Bool[jax.Array, "B L"]]:
        """Positions in time first."""
        patches, mask = split_frames(mel, mask, self.frames, self.mels)
        mask = mask.any(-1)
        x = Einsum(
            "B L P, P D -> B L D",
            shape=(patches.shape[-1], width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="linear",
        )(patches)
        return x, mask


def split_frames(
    mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], frames: int, mels: int | None
) -> tuple[Float[jax.Array, "B L P"], Bool[jax.Array, "B L P"]]:
    """Patches of `frames` x `mels` (None: all), time first, and which of their values are valid."""
    num_mels = mels or mel.shape[2]
    if mel.shape[2] % num_mels:
        raise ValueError(f"{mel.shape[2]} mels do not divide into patches of {num_mels}")
    length = mel.shape[1] // frames * frames
    valid = jnp.broadcast_to(mask[:, :length, None], (mel.shape[0], length, mel.shape[2]))
    mel, valid = (
        einops.rearrange(x, "B (T t) (M m) -> B (T M) (t m)", t=frames, m=num_mels)
        for x in (mel[:, :length], valid)
    )
    return mel, valid


class ConvFrames(nn.Module):
    """`depth` convolutions over time with GELU, as in front of Whisper's encoder (Radford et al. 2022)."""

    depth: int = 2
    size: int = 5
    stride: int = 2
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], width: int
    ) -> tuple[Float[jax.Array, "B L {width}"], Bool[jax.Array, "B L"]]:
        """Spectrogram -> positions."""
        x = mel
        for i in range(self.depth):
            x = nn.gelu(Conv1d(width, self.size, self.stride, dtype=self.dtype, name=f"conv_{i}")(x))
            mask = mask[:, :: self.stride]
        return x, mask


class SpectrogramTransformer(Encoder):
    """Log-mel (computed here, inside the compiled step), patches or convolutions, positions, trunk.

    Patches that a view hides are left out, as in Audio-MAE (Huang et al. 2022, section 3), or with
    `mask_token` a learned vector stands in for each. Such a view is not augmented: its target is the
    spectrogram as it is.
    """

    mel: LogMel
    stem: FramePatches | ConvFrames | ConvSpectrogram
    trunk: Transformer
    augment: SpecAugment | None = None
    position_scale: float = 1.0
    mask_token: bool = False

    @property
    def hides_patches(self):
        return True

    @nn.compact
    def __call__(self, audio: Audio, train: bool = False) -> Encoded:
        """Audio ``"B samples"`` -> Encoded ``"B L D"``."""
        if audio.visible is not None and not isinstance(self.stem, FramePatches):
            raise ValueError(
                f"a view hides patches, and the windows of {type(self.stem).__name__} overlap: what is "
                "hidden would be seen from beside it; use the stem FramePatches"
            )
        mel, mask = self.mel(audio.samples, audio.mask)
        if train and self.augment is not None and audio.visible is None:
            mel, mask = self.augment(mel, mask, self.make_rng("views"))
        x, mask = self.stem(mel, mask, self.trunk.width)
        if self.mask_token:
            token = self.param("mask_token", param_axes(nn.initializers.normal(0.02), "embed"), x.shape[-1:])
            x = stand_in(x, audio.visible, token)
        x, patch_indices = LearnedPositions(x.shape[1], self.position_scale, name="positions")(x), None
        if audio.visible is not None and not self.mask_token:
            x, mask, patch_indices = only_visible(x, mask, audio.visible)
        return self.trunk.encode(x, mask, train).replace(patch_indices=patch_indices)
