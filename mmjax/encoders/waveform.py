"""An encoder of audio by its samples, without a spectrogram."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Audio, Encoded
from mmjax.encoders.base import Encoder
from mmjax.encoders.projection import project
from mmjax.layers import Conv1d, LayerNorm, LearnedPositions, Transformer, mask_for_stride
from mmjax.ranges import Dtype, Kernel, NonNegative, Size


class ConvWaveform(nn.Module):
    """The feature encoder of wav2vec 2.0 (Baevski et al. 2020, sections 2 and 4.2), then a linear map.

    It normalises the clip to mean 0 and standard deviation 1. Each block is a convolution over time with
    "same" padding, a norm over channels and GELU; masked positions are zeroed before each convolution. The
    default strides reduce 320 samples, 20 ms at 16 kHz, to one token.

    kernel_sizes, strides: those of each convolution.
    """

    channels: Size = 512
    kernel_sizes: tuple[Kernel, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[Kernel, ...] = (5, 2, 2, 2, 2, 2, 2)
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, samples: Float[jax.Array, "B samples"], mask: Bool[jax.Array, "B samples"], width: int
    ) -> tuple[Float[jax.Array, "B L {width}"], Bool[jax.Array, "B L"]]:
        """Returns tokens and their mask."""
        if len(self.kernel_sizes) != len(self.strides):
            raise ValueError(
                f"expected a stride for each of kernel_sizes={self.kernel_sizes}, found {self.strides}"
            )
        x = normalise_clips(samples, mask)[..., None]
        for i, (kernel_size, stride) in enumerate(zip(self.kernel_sizes, self.strides, strict=True)):
            x, mask = mask_for_stride(x, mask, stride)
            x = Conv1d(self.channels, kernel_size, stride, dtype=self.dtype, name=f"conv_{i}")(x)
            mask = mask[:, ::stride]
            x = nn.gelu(LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x))
        x = project(LayerNorm(dtype=self.dtype, name="norm")(x), width, self.dtype)
        return x, mask


def normalise_clips(
    samples: Float[jax.Array, "B samples"], mask: Bool[jax.Array, "B samples"]
) -> Float[jax.Array, "B samples"]:
    """Normalises each clip to mean 0 and standard deviation 1 over valid samples; the others become 0."""
    samples = jnp.where(mask, samples.astype(jnp.float32), 0)
    count = jnp.maximum(mask.sum(1, keepdims=True), 1)
    centred = jnp.where(mask, samples - samples.sum(1, keepdims=True) / count, 0)
    variance = jnp.square(centred).sum(1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + 1e-7)


class WaveformTransformer(Encoder):
    """Convolutions over the samples, position embeddings and trunk."""

    stem: ConvWaveform
    trunk: Transformer
    position_init_std: NonNegative = 1.0

    @nn.compact
    def __call__(self, audio: Audio, train: bool = False) -> Encoded:
        x, mask = self.stem(audio.samples, audio.mask, self.trunk.width)
        x = LearnedPositions(x.shape[1], self.position_init_std, name="positions")(x)
        return self.trunk.encode(x, mask, train)
