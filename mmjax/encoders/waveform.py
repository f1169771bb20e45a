"""Sound from its samples, without a spectrogram."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Audio, Encoded
from mmjax.encoders.base import Encoder
from mmjax.layers import Conv1d, Einsum, LayerNorm, LearnedPositions, Transformer


class ConvWaveform(nn.Module):
    """The feature encoder of wav2vec 2.0 (Baevski et al. 2020, sections 2 and 4.2), then a linear map.

    Blocks of a convolution over time, a norm over channels and GELU; the clip comes in with mean 0 and
    deviation 1. Seven blocks with strides of 5, 2, 2, 2, 2, 2, 2 make a position of 320 samples, 20 ms at 16
    kHz. Padding is "same" and silenced before each convolution.
    """

    channels: int = 512
    sizes: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, samples: Float[jax.Array, "B samples"], mask: Bool[jax.Array, "B samples"], width: int
    ) -> tuple[Float[jax.Array, "B L {width}"], Bool[jax.Array, "B L"]]:
        """Samples -> positions."""
        if len(self.sizes) != len(self.strides):
            raise ValueError(f"expected a stride for each of sizes={self.sizes}, found {self.strides}")
        x = standardise(samples, mask)[..., None]
        for i, (size, stride) in enumerate(zip(self.sizes, self.strides, strict=True)):
            x = Conv1d(self.channels, size, stride, dtype=self.dtype, name=f"conv_{i}")(x)
            mask = mask[:, ::stride]
            x = nn.gelu(LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x))
            x = jnp.where(mask[..., None], x, 0)
        x = Einsum(
            "B L P, P D -> B L D",
            shape=(self.channels, width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="linear",
        )(LayerNorm(dtype=self.dtype, name="norm")(x))
        return x, mask


def standardise(
    samples: Float[jax.Array, "B samples"], mask: Bool[jax.Array, "B samples"]
) -> Float[jax.Array, "B samples"]:
    """Each clip to mean 0 and deviation 1 over what is there; 0 elsewhere."""
    samples = jnp.where(mask, samples.astype(jnp.float32), 0)
    count = jnp.maximum(mask.sum(1, keepdims=True), 1)
    centred = jnp.where(mask, samples - samples.sum(1, keepdims=True) / count, 0)
    variance = jnp.square(centred).sum(1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + 1e-7)


class WaveformTransformer(Encoder):
    """Convolutions over the samples, positions, trunk."""

    stem: ConvWaveform
    trunk: Transformer
    position_scale: float = 1.0

    @nn.compact
    def __call__(self, audio: Audio, train: bool = False) -> Encoded:
        """Audio ``"B samples"`` -> Encoded ``"B L D"``."""
        x, mask = self.stem(audio.samples, audio.mask, self.trunk.width)
        x = LearnedPositions(x.shape[1], self.position_scale, name="positions")(x)
        return self.trunk.encode(x, mask, train)
