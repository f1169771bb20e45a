"""Features of a discriminator that learns beside a generator, on spectrograms."""

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


class SpectrogramGenerator(nn.Module):
    """Noise to a spectrogram, as DCGAN's generator (Radford et al. 2016, section 3, figure 1).

    A linear map to a small picture of ``channels[0]``, then for each entry norm, ReLU and a doubling both
    ways, down to one channel. A doubling is a convolution to four times the channels whose quarters are laid
    out side by side (Shi et al. 2016, section 2.2): a strided transposed convolution without its uneven
    overlap. Norms are over channels, because batch statistics would tie examples together. The last map is
    linear: a normalised log-mel has no bounds for a tanh.
    """

    channels: tuple[int, ...] = (128, 64, 32)
    size: int = 3
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, noise: Float[jax.Array, "B Z"], num_frames: int, num_mels: int
    ) -> Float[jax.Array, "B {num_frames} {num_mels}"]:
        """One spectrogram a row of noise."""
        times = 2 ** len(self.channels)
        height, width = math.ceil(num_frames / times), math.ceil(num_mels / times)
        x = Einsum(
            "B Z, Z P -> B P", shape=(noise.shape[1], height * width * self.channels[0]),
            axes=("patch", "embed"), dtype=self.dtype, name="linear",
        )(noise)  # fmt: skip
        x = x.reshape(-1, height, width, self.channels[0])
        for i, channels in enumerate((*self.channels[1:], 1)):
            x = nn.relu(LayerNorm(dtype=self.dtype, name=f"norm_{i}")(x))
            # The last four channels are a cell's four pixels: too few for devices to share.
            axes = ("patch", "embed" if channels > 1 else None)
            conv = Conv2d(4 * channels, self.size, by="xla", axes=axes, dtype=self.dtype, name=f"conv_{i}")
            x = conv(x)
            x = einops.rearrange(x, "B M N (a b C) -> B (M a) (N b) C", a=2, b=2)
        return x[:, :num_frames, :num_mels, 0]


class AdversarialSpectrogram(Encoder):
    """The encoding is a discriminator's features (Radford et al. 2016, section 5); a generator trains it.

    `heads.RealOrGenerated` and `objectives.Adversarial` compute its losses on `batch.AdversarialEncoded`: no
    gradient reaches the generator through `for_discriminator`, nor the discriminator's parameters through
    `for_generator`. XLA merges the forward passes of the two over generated spectrograms; their backward
    passes differ. A generated spectrogram has its example's mask, so that its length does not give it away.
    Outside training the noise is one fixed sample. `embeddings` never depend on it.
    """

    mel: LogMel
    generator: SpectrogramGenerator
    discriminator: ConvSpectrogram
    width: int
    noise: int = 64
    augment: SpecAugment | None = None

    @nn.compact
    def __call__(self, audio: Audio, train: bool = False) -> AdversarialEncoded:
        """Audio ``"B samples"`` -> AdversarialEncoded ``"B L D"``."""
        mel, frames = self.mel(audio.samples, audio.mask)
        if train and self.augment is not None:
            mel, frames = self.augment(mel, frames, self.make_rng("views"))
        real, mask = self.discriminator(mel, frames, self.width)
        if train:
            noise = jax.random.normal(self.make_rng("views"), (mel.shape[0], self.noise))
        else:
            drawn = jax.random.normal(jax.random.key(0), (1, self.noise))
            noise = jnp.broadcast_to(drawn, (mel.shape[0], self.noise))
        made = self.generator(noise, mel.shape[1], mel.shape[2]).astype(mel.dtype)
        made = jnp.where(frames[..., None], made, 0)
        for_discriminator, _ = self.discriminator(jax.lax.stop_gradient(made), frames, self.width)
        constant = {"params": jax.lax.stop_gradient(self.discriminator.variables["params"])}
        judge = self.discriminator.clone(parent=None)
        for_generator, _ = judge.apply(constant, made, frames, self.width)
        return AdversarialEncoded(
            real, mask, for_discriminator=for_discriminator, for_generator=for_generator
        )
