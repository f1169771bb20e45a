"""A generative adversarial network on spectrograms, whose discriminator is the encoder."""

import math

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from mmjax.batch import AdversarialEncoded, Audio
from mmjax.encoders.base import Encoder
from mmjax.encoders.convolutional import ConvSpectrogram
from mmjax.encoders.spectrogram import LogMel, SpecAugment
from mmjax.layers import Conv2d, Einsum, LayerNorm
from mmjax.ranges import Dtype, Kernel, Size


class SpectrogramGenerator(nn.Module):
    """Maps noise to a spectrogram, as DCGAN's generator (Radford et al. 2016, section 3, figure 1).

    A linear map to a small image of `channels[0]` is followed, for each entry of `channels`, by a norm, ReLU
    and upsampling by two along both axes, ending with one channel. Upsampling is a convolution to four times
    the channels, rearranged to 2 x 2 pixels (Shi et al. 2016, section 2.2); it avoids the uneven overlap of a
    strided transposed convolution. Norms are over channels, so that examples stay independent. There is no
    final tanh, since a normalised log-mel is unbounded.
    """

    channels: tuple[Size, ...] = (128, 64, 32)
    kernel_size: Kernel = 3
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self, noise: Float[jax.Array, "B Z"], num_frames: int, num_mels: int
    ) -> Float[jax.Array, "B {num_frames} {num_mels}"]:
        """Returns one spectrogram for each row of noise."""
        upsampling = 2 ** len(self.channels)
        height, width = math.ceil(num_frames / upsampling), math.ceil(num_mels / upsampling)
        x = Einsum(
            "B Z, Z P -> B P", shape=(noise.shape[1], height * width * self.channels[0]),
            axes=("patch", "embed"), dtype=self.dtype, name="linear",
        )(noise)  # fmt: skip
        x = x.reshape(-1, height, width, self.channels[0])
        for i, channels in enumerate((*self.channels[1:], 1)):
            x = nn.relu(LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x))
            # The last convolution has four output channels, too few to shard.
            axes = ("patch", "embed" if channels > 1 else None)
            x = Conv2d(
                4 * channels, self.kernel_size, implementation="xla", axes=axes, dtype=self.dtype,
                name=f"conv_{i}",
            )(x)  # fmt: skip
            x = einops.rearrange(x, "B M N (a b C) -> B (M a) (N b) C", a=2, b=2)
        return x[:, :num_frames, :num_mels, 0]


class AdversarialSpectrogram(Encoder):
    """The features of a discriminator trained against a generator (Radford et al. 2016, section 5).

    `heads.RealOrGenerated` and `objectives.Adversarial` compute its losses on `batch.AdversarialEncoded`: no
    gradient reaches the generator through `for_discriminator`, nor the discriminator's parameters through
    `for_generator`. XLA merges the forward passes of the two over generated spectrograms; their backward
    passes differ. A generated spectrogram has its example's mask, so that its length does not give it away.
    Outside training the noise is one fixed sample. `embeddings` never depend on it.
    """

    mel: LogMel
    generator: SpectrogramGenerator
    discriminator: ConvSpectrogram
    width: Size
    noise_dim: Size = 64
    augment: SpecAugment | None = None

    @nn.compact
    def __call__(self, audio: Audio, train: bool = False) -> AdversarialEncoded:
        mel, frames = self.mel(audio.samples, audio.mask)
        if train and self.augment is not None:
            mel, frames = self.augment(mel, frames, self.make_rng("views"))
        real, mask = self.discriminator(mel, frames, self.width)
        if train:
            noise = jax.random.normal(self.make_rng("views"), (mel.shape[0], self.noise_dim))
        else:
            fixed = jax.random.normal(jax.random.key(0), (1, self.noise_dim))
            noise = jnp.broadcast_to(fixed, (mel.shape[0], self.noise_dim))
        generated = self.generator(noise, mel.shape[1], mel.shape[2]).astype(mel.dtype)
        generated = jnp.where(frames[..., None], generated, 0)
        for_discriminator, _ = self.discriminator(jax.lax.stop_gradient(generated), frames, self.width)
        constant = {"params": jax.lax.stop_gradient(self.discriminator.variables["params"])}
        discriminator = self.discriminator.clone(parent=None)
        for_generator, _ = discriminator.apply(constant, generated, frames, self.width)
        return AdversarialEncoded(
            real, mask, for_discriminator=for_discriminator, for_generator=for_generator
        )
