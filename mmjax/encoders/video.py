"""Video towers."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from mmjax.batch import Encoded, Image, Video
from mmjax.encoders.base import Encoder
from mmjax.encoders.image import ViT
from mmjax.encoders.resnet import ResNet
from mmjax.layers import Einsum, LearnedPositions, Transformer


class FactorisedVideo(Encoder):
    """Space, then time: ViViT's factorised encoder (Arnab et al. 2021, section 3.3, model 2).

    Every frame goes by itself through an image encoder, the mean of its tokens (or the first, where that is a
    class token) through a linear map to the width of `time`, and the frames through `time`. A token is a
    frame.
    Attention costs frames x space^2 + frames^2 in the place of (frames x space)^2.
    """

    space: ViT | ResNet
    time: Transformer
    pooling: str = "mean"
    position_scale: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, video: Video, train: bool = False) -> Encoded:
        """Video ``"B frames height width channel"`` -> Encoded ``"B frames D"``."""
        if self.pooling not in ("mean", "first"):
            raise ValueError(f"pooling expects 'mean' or 'first', found {self.pooling!r}")
        frames = einops.rearrange(video.frames, "B T height width C -> (B T) height width C")
        x = self.space(Image(frames, video.mask.reshape(-1)), train).embeddings
        x = x[:, 0] if self.pooling == "first" else x.mean(axis=1)
        x = einops.rearrange(x, "(B T) D -> B T D", B=video.mask.shape[0])
        x = Einsum(
            "B T D, D M -> B T M",
            shape=(x.shape[-1], self.time.width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="linear",
        )(x)
        x = LearnedPositions(x.shape[1], self.position_scale, name="positions")(x)
        return self.time.encode(x, video.mask, train)


class Tubelets(nn.Module):
    """Boxes of frames x height x width, a linear map each (Arnab et al. 2021, section 3.2, figure 3)."""

    frames: int
    patch: tuple[int, int]
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        frames: Float[jax.Array, "B frames height width channel"],
        mask: Bool[jax.Array, "B frames"],
        width: int,
    ) -> tuple[Float[jax.Array, "B T S {width}"], Bool[jax.Array, "B T"]]:
        """Boxes in order of time, then in reading order. A box that is there in part is there."""
        sizes = (self.frames, *self.patch)
        if any(have % size for have, size in zip(frames.shape[1:4], sizes, strict=True)):
            raise ValueError(f"a video of {frames.shape[1:4]} does not divide into tubelets of {sizes}")
        frames = jnp.where(mask[:, :, None, None, None], frames, 0)
        x = einops.rearrange(
            frames, "B (T t) (M m) (N n) C -> B T (M N) (t m n C)",
            t=self.frames, m=self.patch[0], n=self.patch[1],
        )  # fmt: skip
        x = Einsum(
            "B T S P, P D -> B T S D",
            shape=(x.shape[-1], width),
            axes=("patch", "embed"),
            dtype=self.dtype,
            name="linear",
        )(x)
        return x, einops.reduce(mask, "B (T t) -> B T", "max", t=self.frames)


class TubeletTransformer(Encoder):
    """Tubelets, positions in space and time, and a trunk over all of them at once (ViViT's model 1).

    Positions are a learned vector of the moment and one of the place, added. Tokens are tubelets, by time.
    """

    stem: Tubelets
    trunk: Transformer
    position_scale: float = 1.0

    @nn.compact
    def __call__(self, video: Video, train: bool = False) -> Encoded:
        """Video ``"B frames height width channel"`` -> Encoded ``"B L D"``."""
        x, mask = self.stem(video.frames, video.mask, self.trunk.width)
        batch, num_places = x.shape[0], x.shape[2]
        place = LearnedPositions(num_places, self.position_scale, name="places")
        moment = LearnedPositions(x.shape[1], self.position_scale, name="moments")
        x = place(einops.rearrange(x, "B T S D -> (B T) S D"))
        x = moment(einops.rearrange(x, "(B T) S D -> (B S) T D", B=batch))
        x = einops.rearrange(x, "(B S) T D -> B (T S) D", B=batch)
        return self.trunk.encode(x, jnp.repeat(mask, num_places, axis=1), train)
