"""Encoders of video."""

from typing import Literal

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded, Image, Video
from mmjax.encoders.base import Encoder
from mmjax.encoders.image import ViT
from mmjax.encoders.projection import project
from mmjax.encoders.resnet import ResNet
from mmjax.layers import Einsum, LearnedPositions, Transformer
from mmjax.ranges import Dtype, NonNegative, Size


class FactorisedVideo(Encoder):
    """ViViT's factorised encoder, first space, then time (Arnab et al. 2021, section 3.3, model 2).

    The image encoder `space` reads each frame alone. Its pooled tokens are mapped linearly to one token for
    each frame, which the trunk `time` reads. Attention costs T S^2 + T^2 instead of (T S)^2, for T frames of
    S tokens.

    pooling: "mean" of the tokens of a frame, or the "first", if it is a class token.
    """

    space: ViT | ResNet
    time: Transformer
    pooling: Literal["mean", "first"] = "mean"
    position_init_std: NonNegative = 1.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, video: Video, train: bool = False) -> Encoded:
        frames = einops.rearrange(video.frames, "B T height width C -> (B T) height width C")
        x = self.space(Image(frames, video.mask.reshape(-1)), train).embeddings
        x = x[:, 0] if self.pooling == "first" else x.mean(axis=1)
        x = einops.rearrange(x, "(B T) D -> B T D", B=video.mask.shape[0])
        x = project(x, self.time.width, self.dtype)
        x = LearnedPositions(x.shape[1], self.position_init_std, name="positions")(x)
        return self.time.encode(x, video.mask, train)


class Tubelets(nn.Module):
    """Maps boxes of frames x height x width linearly to tokens (Arnab et al. 2021, section 3.2, figure 3)."""

    frames: Size
    patch: tuple[Size, Size]
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(
        self,
        frames: Float[jax.Array, "B frames height width channel"],
        mask: Bool[jax.Array, "B frames"],
        width: int,
    ) -> tuple[Float[jax.Array, "B T S {width}"], Bool[jax.Array, "B T"]]:
        """Returns tokens by time, then in reading order, and a mask: some frame of the tubelet is valid."""
        sizes = (self.frames, *self.patch)
        if any(length % size for length, size in zip(frames.shape[1:4], sizes, strict=True)):
            raise ValueError(f"a video of {frames.shape[1:4]} does not divide into tubelets of {sizes}")
        frames = jnp.where(mask[:, :, None, None, None], frames, 0)
        x = einops.rearrange(
            frames, "B (T t) (M m) (N n) C -> B T (M N) (t m n C)",
            t=self.frames, m=self.patch[0], n=self.patch[1],
        )  # fmt: skip
        x = Einsum(
            "B T S P, P D -> B T S D", shape=(x.shape[-1], width), axes=("patch", "embed"),
            dtype=self.dtype, name="linear",
        )(x)  # fmt: skip
        return x, einops.reduce(mask, "B (T t) -> B T", "max", t=self.frames)


class TubeletTransformer(Encoder):
    """Tubelets, position embeddings, and a trunk over all tubelets, ordered by time (ViViT's model 1).

    The position embedding is the sum of a learned vector for the time and one for the place in the frame.
    """

    stem: Tubelets
    trunk: Transformer
    position_init_std: NonNegative = 1.0

    @nn.compact
    def __call__(self, video: Video, train: bool = False) -> Encoded:
        x, mask = self.stem(video.frames, video.mask, self.trunk.width)
        batch, num_places = x.shape[0], x.shape[2]
        space_positions = LearnedPositions(num_places, self.position_init_std, name="places")
        time_positions = LearnedPositions(x.shape[1], self.position_init_std, name="moments")
        x = space_positions(einops.rearrange(x, "B T S D -> (B T) S D"))
        x = time_positions(einops.rearrange(x, "(B T) S D -> (B S) T D", B=batch))
        x = einops.rearrange(x, "(B S) T D -> B (T S) D", B=batch)
        return self.trunk.encode(x, jnp.repeat(mask, num_places, axis=1), train)
