"""Sound through two-dimensional convolutions over its spectrogram."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Audio, Encoded
from mmjax.encoders.base import Encoder
from mmjax.encoders.spectrogram import LogMel, SpecAugment
from mmjax.layers import ACTIVATIONS, Conv2d, Einsum, LayerNorm


class ConvSpectrogram(nn.Module):
    """Convolutions over time and mel, each halving both, then all mels of a moment in one linear map.

    As the networks of Hershey et al. 2017 (section 3), with strides for their pooling. The norm is over the
    channels of a cell (LayerNorm) and padding is silenced before each convolution: what is not there has no
    part in what is. A token is 2^n frames long, n the length of `channels`.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    size: int = 3
    activation: str = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], width: int
    ) -> tuple[Float[jax.Array, "B L {width}"], Bool[jax.Array, "B L"]]:
        """Spectrogram -> moments."""
        x = mel[..., None]
        for i, channels in enumerate(self.channels):
            x = jnp.where(mask[:, :, None, None], x, 0)
            x = Conv2d(channels, self.size, stride=2, by="xla", dtype=self.dtype, name=f"conv_{i}")(x)
            x = ACTIVATIONS[self.activation](LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x))
            mask = mask[:, ::2]
        x = einops.rearrange(x, "B T M C -> B T (M C)")
        x = Einsum(
            "B L P, P D -> B L D",
            shape=(x.shape[-1], width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="linear",
        )(x)
        return x, mask


class SpectrogramCNN(Encoder):
    """Log-mel and convolutions, nothing behind them: a token knows what its convolutions reach."""

    mel: LogMel
    stem: ConvSpectrogram
    width: int
    augment: SpecAugment | None = None

    @nn.compact
    def __call__(self, audio: Audio, train: bool = False) -> Encoded:
        """Audio ``"B samples"`` -> Encoded ``"B L D"``."""
        mel, mask = self.mel(audio.samples, audio.mask)
        if train and self.augment is not None:
            mel, mask = self.augment(mel, mask, self.make_rng("views"))
        return Encoded(*self.stem(mel, mask, self.width))
