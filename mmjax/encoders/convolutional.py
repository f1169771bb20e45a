"""Encoders of audio by convolutions over its spectrogram."""

import einops
import flax.linen as nn
import jax
from jaxtyping import Bool, Float

from mmjax.batch import Audio, Encoded
from mmjax.encoders.base import Encoder
from mmjax.encoders.projection import project
from mmjax.encoders.spectrogram import LogMel, SpecAugment
from mmjax.layers import ACTIVATIONS, Conv2d, LayerNorm, mask_for_stride
from mmjax.ranges import Activation, Dtype, Kernel, Size


class ConvSpectrogram(nn.Module):
    """Convolutions of stride 2 over time and mel, then a linear map of all mels of a position.

    This follows the networks of Hershey et al. 2017 (section 3), with strides in place of pooling. Masked
    frames are zeroed before each convolution and norms are over channels, so that padding has no influence. A
    token covers `2 ** len(channels)` frames.
    """

    channels: tuple[Size, ...] = (32, 64, 128)
    kernel_size: Kernel = 3
    activation: Activation = "relu"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, mel: Float[jax.Array, "B frames mels"], mask: Bool[jax.Array, "B frames"], width: int
    ) -> tuple[Float[jax.Array, "B L {width}"], Bool[jax.Array, "B L"]]:
        """Returns one token for every `2 ** len(channels)` frames, and their mask."""
        x = mel[..., None]
        for i, channels in enumerate(self.channels):
            x, mask = mask_for_stride(x, mask, 2)
            x = Conv2d(
                channels, self.kernel_size, stride=2, implementation="xla", dtype=self.dtype, name=f"conv_{i}"
            )(x)
            x = ACTIVATIONS[self.activation](LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x))
            mask = mask[:, ::2]
        x = einops.rearrange(x, "B T M C -> B T (M C)")
        x = project(x, width, self.dtype)
        return x, mask


class SpectrogramCNN(Encoder):
    """Log-mel spectrogram and convolutions, without a trunk."""

    mel: LogMel
    stem: ConvSpectrogram
    width: Size
    augment: SpecAugment | None = None

    @nn.compact
    def __call__(self, audio: Audio, train: bool = False) -> Encoded:
        mel, mask = self.mel(audio.samples, audio.mask)
        if train and self.augment is not None:
            mel, mask = self.augment(mel, mask, self.make_rng("views"))
        return Encoded(*self.stem(mel, mask, self.width))
