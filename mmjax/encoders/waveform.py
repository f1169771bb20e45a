"""An encoder of audio by its samples, without a spectrogram."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Audio, Encoded
from mmjax.encoders.base import Encoder
from mmjax.encoders.projection import project
from mmjax.encoders.visible import insert_mask_token
from mmjax.layers import ACTIVATIONS, Conv1d, LayerNorm, LearnedPositions, Transformer, mask_for_stride
from mmjax.layers.conv import extract_windows
from mmjax.ranges import Activation, Dtype, Kernel, NonNegative, Positive, Size
from mmjax.sharding import param_axes


class ConvWaveform(nn.Module):
    """The feature encoder of wav2vec 2.0 (Baevski et al. 2020, sections 2 and 4.2), then a linear map.

    It normalises the clip to mean 0 and standard deviation 1. Each block is a convolution over time, a norm
    and the activation; masked positions are zeroed before each convolution. The default strides reduce 320
    samples, 20 ms at 16 kHz, to one token.

    kernel_sizes, strides: those of each convolution.
    padding: "same"; or "valid", without zeros at the ends, where tokens whose window is not wholly within the
      clip are masked (the original).
    norms: "all": over channels, in each block. "first": each channel over the valid positions of the clip, in
      the first block alone (the original's base models).
    epsilon: that of each norm.
    """

    channels: Size = 512
    kernel_sizes: tuple[Kernel, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[Kernel, ...] = (5, 2, 2, 2, 2, 2, 2)
    padding: Literal["same", "valid"] = "same"
    norms: Literal["all", "first"] = "all"
    use_bias: bool = True
    activation: Activation = "gelu_tanh"
    epsilon: Positive = 1e-6
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
            if self.padding == "same":
                x, mask = mask_for_stride(x, mask, stride)
                mask_after = mask[:, ::stride]
            else:
                x = jnp.where(mask[..., None], x, 0)
                mask_after = extract_windows(mask[..., None], kernel_size, stride, 1, "valid").all(-1)
            x = Conv1d(
                self.channels, kernel_size, stride, self.padding, self.use_bias, self.dtype, name=f"conv_{i}"
            )(x)
            mask = mask_after
            if self.norms == "all":
                x = LayerNorm(self.epsilon, dtype=self.dtype, name=f"norm_{i}")(x)
            elif i == 0:
                x = ChannelNorm(self.epsilon, self.dtype, name=f"norm_{i}")(x, mask)
            x = ACTIVATIONS[self.activation](x)
        x = LayerNorm(self.epsilon, dtype=self.dtype, name="norm")(x)
        return project(x, width, self.dtype), mask


class ChannelNorm(nn.Module):
    """Normalises each channel over the valid positions of an example; statistics in float32.

    It is a group norm with one channel per group (Wu & He 2018). Without padding it equals that of wav2vec
    2.0, whose statistics also count the padding.
    """

    epsilon: Positive = 1e-5
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B L C"], mask: Bool[jax.Array, "B L"]
    ) -> Float[jax.Array, "B L C"]:
        x32, valid = x.astype(jnp.float32), mask[..., None]
        count = jnp.maximum(valid.sum(1, keepdims=True), 1)
        centred = jnp.where(valid, x32 - jnp.where(valid, x32, 0).sum(1, keepdims=True) / count, 0)
        variance = jnp.square(centred).sum(1, keepdims=True) / count
        scale = self.param("scale", param_axes(nn.initializers.ones, "embed"), x.shape[-1:])
        bias = self.param("bias", param_axes(nn.initializers.zeros, "embed"), x.shape[-1:])
        y = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (y * scale[None, None] + bias[None, None]).astype(self.dtype)


class ConvPositions(nn.Module):
    """Adds to each position a convolution of its neighbours (Baevski et al. 2020, section 2), then GELU.

    The convolution has groups of channels, and a weight norm (Salimans & Kingma 2016) for each offset of its
    kernel. Masked positions count as zero.
    """

    kernel_size: Kernel = 128
    num_groups: Size = 16
    activation: Activation = "gelu"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B L D"], mask: Bool[jax.Array, "B L"]
    ) -> Float[jax.Array, "B L D"]:
        width, size = x.shape[-1], self.kernel_size
        if width % self.num_groups:
            raise ValueError(f"width {width} does not divide into num_groups={self.num_groups}")
        std = 2 / (size * width) ** 0.5
        shape = (size, width // self.num_groups, width)
        direction = self.param(
            "direction", param_axes(nn.initializers.normal(std), None, None, "embed"), shape
        )
        init = nn.initializers.constant(std * (shape[1] * width) ** 0.5)  # the norm of the direction
        magnitude = self.param("magnitude", param_axes(init, None), (size,))
        bias = self.param("bias", param_axes(nn.initializers.zeros, "embed"), (width,))
        norm = jnp.sqrt(jnp.square(direction).sum((1, 2), keepdims=True))
        kernel = (magnitude[:, None, None] * direction / norm).astype(self.dtype)
        y = jax.lax.conv_general_dilated(
            jnp.where(mask[..., None], x, 0).astype(self.dtype), kernel, (1,),
            [(size // 2, size - 1 - size // 2)], dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.num_groups,
        )  # fmt: skip
        return x + ACTIVATIONS[self.activation](y + bias[None, None].astype(self.dtype)).astype(x.dtype)


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
    """Convolutions over the samples, position embeddings and trunk.

    position_convolution: as in wav2vec 2.0, which has no largest length. None: a learned vector for each
      position.
    embedding_norm: normalise the sum with the positions before the trunk.
    mask_token: replace tokens that are not `Audio.visible` by a learned vector, before the positions (Baevski
      et al. 2020, section 3.1).
    """

    stem: ConvWaveform
    trunk: Transformer
    position_init_std: NonNegative = 1.0
    position_convolution: ConvPositions | None = None
    embedding_norm: bool = False
    mask_token: bool = False

    @property
    def hides_patches(self):
        return self.mask_token

    @nn.compact
    def __call__(self, audio: Audio, train: bool = False) -> Encoded:
        x, mask = self.stem(audio.samples, audio.mask, self.trunk.width)
        if self.mask_token:
            token = self.param("mask_token", param_axes(nn.initializers.normal(0.02), "embed"), x.shape[-1:])
            x = insert_mask_token(x, audio.visible, token)
        if self.position_convolution is None:
            x = LearnedPositions(x.shape[1], self.position_init_std, name="positions")(x)
        else:
            x = self.position_convolution(x, mask)
        if self.embedding_norm:
            x = LayerNorm(self.trunk.epsilon, dtype=self.trunk.dtype, name="norm")(x)
        return self.trunk.encode(x, mask, train)
