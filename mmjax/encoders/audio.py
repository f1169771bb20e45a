"""Audio towers."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Audio, Encoded
from mmjax.encoders.convolutional import ConvSpectrogram
from mmjax.encoders.spectrogram import LogMel, SpecAugment
from mmjax.layers import Conv1d, Einsum, LearnedPositions, Transformer


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
        num_mels = self.mels or mel.shape[2]
        if mel.shape[2] % num_mels:
            raise ValueError(f"{mel.shape[2]} mels do not divide into patches of {num_mels}")
        length = mel.shape[1] // self.frames * self.frames
        patches = einops.rearrange(
            mel[:, :length], "B (T t) (M m) -> B (T M) (t m)", t=self.frames, m=num_mels
        )
        mask = einops.reduce(mask[:, :length], "B (T t) -> B T", "max", t=self.frames)
        mask = jnp.repeat(mask, mel.shape[2] // num_mels, axis=1)
        x = Einsum(
            "B L P, P D -> B L D",
            shape=(patches.shape[-1], width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="linear",
        )(patches)
        return x, mask


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


class SpectrogramTransformer(nn.Module):
    """Log-mel (computed here, inside the compiled step), patches or convolutions, positions, trunk."""

    mel: LogMel
    stem: FramePatches | ConvFrames | ConvSpectrogram
    trunk: Transformer
    augment: SpecAugment | None = None
    position_scale: float = 1.0

    @nn.compact
    def __call__(self, audio: Audio, train: bool = False) -> Encoded:
        """Audio ``"B samples"`` -> Encoded ``"B L D"``."""
        mel, mask = self.mel(audio.samples, audio.mask)
        if train and self.augment is not None:
            mel, mask = self.augment(mel, mask, self.make_rng("views"))
        x, mask = self.stem(mel, mask, self.trunk.width)
        x = LearnedPositions(x.shape[1], self.position_scale, name="positions")(x)
        return self.trunk.encode(x, mask, train)
