"""Masked patches of images and spectrograms."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32

from mmjax.batch import Audio, Image, Stream
from mmjax.errors import InputError
from mmjax.ranges import Count, OpenFraction, Size
from mmjax.views.base import View

NUM_RECTANGLES = 16  # sampled per example for block masking; the first few cover most of what is masked


@dataclasses.dataclass(frozen=True)
class MaskPatches(View):
    """Masks a fraction of the patches (He et al. 2022, MAE, section 3; audio: Huang et al. 2022, Audio-MAE).

    Every example keeps the same number of visible positions, so that shapes are static. In a recording
    shorter than the others, `rate` applies to its own patches, and the remaining visible positions are
    padding. At least one patch per example is visible.

    Args:
        grid: (rows, columns) of an image's patches, or (time steps, frequency bands) of a spectrogram's.
        rate: the fraction to mask.
        unit: "patch" samples patches one by one, "block" masks rectangles (Bao et al. 2022, BEiT, algorithm
            1, here with an exact number of patches).
        samples_per_patch: for audio, the samples that one patch spans: LogMel's hop times the stem's frames.
        unmasked_stream: a stream to add that holds the unmasked input, for heads that need both.

    Targets: masked_patches bool "B L", False where the image or sound is missing.
    """

    stream: str
    grid: tuple[Size, Size]
    rate: OpenFraction = 0.75
    unit: Literal["patch", "block"] = "patch"
    samples_per_patch: Count | None = None
    unmasked_stream: str | None = None

    def changed_streams(self):
        return (self.stream,) if self.unmasked_stream is None else (self.stream, self.unmasked_stream)

    def transform_batch(self, batch, key):
        value = batch[self.stream]
        valid = self.valid_patches(value)
        shape, length = valid.shape, valid.shape[1]
        num_visible = max(1, round(length * (1 - self.rate)))
        score = self.block_scores(key, shape[0]) if self.unit == "block" else jax.random.uniform(key, shape)
        rank = jnp.where(valid, score, jnp.inf).argsort(axis=1).argsort(axis=1)
        keep = valid & (rank < jnp.maximum(1, valid.sum(1, keepdims=True) * num_visible // length))
        # Kept patches first, then padding, to fill the static number of visible positions.
        order = jnp.where(keep, 0, jnp.where(valid, 2, 1))
        visible = order.argsort(axis=1)[:, :num_visible].astype(jnp.int32)
        changed = {self.stream: value.replace(visible=visible)}
        if self.unmasked_stream:
            changed[self.unmasked_stream] = value
        return batch | changed, {"masked_patches": valid & ~keep}

    def valid_patches(self, value: Stream) -> Bool[jax.Array, "B L"]:
        """Whether each patch holds pixels or sound, rather than padding."""
        rows, columns = self.grid
        match value:
            case Image():
                return jnp.broadcast_to(value.mask[:, None], (value.mask.shape[0], rows * columns))
            case Audio():
                return jnp.repeat(self.valid_steps(value.mask), columns, axis=1)
        raise InputError(
            f"MaskPatches expects an Image or Audio stream, found {self.stream!r}, which is a "
            f"{type(value).__name__}: to mask words, use MaskTokens"
        )

    def valid_steps(self, mask: Bool[jax.Array, "B samples"]) -> Bool[jax.Array, "B steps"]:
        """Whether each time step of the grid has an unmasked sample."""
        size = self.samples_per_patch or 0
        length = self.grid[0] * size
        if not 0 < length < mask.shape[1] + size:
            raise InputError(
                f"MaskPatches expects grid[0] x samples_per_patch from 1 to the {mask.shape[1]} samples of "
                f"{self.stream!r}, found {self.grid[0]} x {self.samples_per_patch}: set samples_per_patch to "
                "LogMel's hop times the stem's frames, and grid[0] to the number of time steps"
            )
        mask = jnp.pad(mask, ((0, 0), (0, size)))[:, :length]  # the last step may reach past the samples
        return mask.reshape(len(mask), self.grid[0], -1).any(-1)

    def block_scores(self, key: jax.Array, batch_size: int) -> Float32[jax.Array, "B L"]:
        """Scores whose highest values form random rectangles; earlier rectangles score higher."""
        rows, columns = self.grid
        size_key, shape_key, top_key, left_key, noise_key = jax.random.split(key, 5)
        shape = (batch_size, NUM_RECTANGLES)
        area = rows * columns * jax.random.uniform(size_key, shape, minval=0.08, maxval=0.3)
        # height / width is log-uniform from 0.3 to 1 / 0.3.
        aspect = 0.3 ** jax.random.uniform(shape_key, shape, minval=-1.0, maxval=1.0)
        inside = []
        for num_patches, side, start_key in (
            (rows, jnp.sqrt(area * aspect), top_key),
            (columns, jnp.sqrt(area / aspect), left_key),
        ):
            size = jnp.clip(jnp.round(side), 1, num_patches)
            start = jnp.floor(jax.random.uniform(start_key, shape) * (num_patches - size + 1))
            position = jnp.arange(num_patches, dtype=jnp.float32)[None, None, :]
            inside.append((position >= start[..., None]) & (position < (start + size)[..., None]))
        covered = inside[0][:, :, :, None] & inside[1][:, :, None, :]
        first = jnp.where(covered.any(1), covered.argmax(1), NUM_RECTANGLES).reshape(batch_size, -1)
        return NUM_RECTANGLES - first + jax.random.uniform(noise_key, first.shape)
