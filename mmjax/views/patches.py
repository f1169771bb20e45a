"""Patches of a picture or of a spectrogram hidden."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from mmjax.batch import Audio, Image
from mmjax.errors import InputError
from mmjax.views.base import View

RECTANGLES = 16  # drawn for a picture of which blocks are hidden; the first ones hide nearly all


@dataclasses.dataclass(frozen=True)
class MaskPatches(View):
    """A share of the patches hidden: He et al. 2022 (MAE, section 3); in sound Huang et al. 2022 (Audio-MAE).

    Every example shows the same number of positions, so that shapes are static; of a short recording fewer of
    them are sound, and the share of its own patches that is hidden is the same. At least one is always shown.

    Args:
        grid: (rows, columns) of a picture's patches, or (moments, bands) of a spectrogram's.
        rate: the share that is hidden.
        unit: each "patch" by itself, or a "block" of neighbours (Bao et al. 2022, BEiT, algorithm 1, here
            with an exact number of patches).
        samples: of a recording, its samples from one moment to the next: LogMel's hop x the stem's frames.
        whole: also makes a stream of this name, the input as it was, for what needs both in one view.

    Targets: hidden bool ``"B L"``, never where there is no picture or sound.
    """

    stream: str
    grid: tuple[int, int]
    rate: float = 0.75
    unit: Literal["patch", "block"] = "patch"
    samples: int | None = None
    whole: str | None = None

    def __post_init__(self):
        if not 0 < self.rate < 1 or min(self.grid) < 1:
            raise InputError(
                f"MaskPatches expects a rate between 0 and 1 and a grid of at least (1, 1), found "
                f"{self.rate} and {self.grid}"
            )

    def changed_streams(self):
        return (self.stream,) if self.whole is None else (self.stream, self.whole)

    def transform_batch(self, batch, key):
        value = batch[self.stream]
        there = self.there(value)
        length = there.shape[1]
        shown = max(1, round(length * (1 - self.rate)))
        score = self.blocks(key, len(there)) if self.unit == "block" else jax.random.uniform(key, there.shape)
        rank = jnp.where(there, score, jnp.inf).argsort(axis=1).argsort(axis=1)
        kept = there & (rank < jnp.maximum(1, there.sum(1, keepdims=True) * shown // length))
        # What is there and kept, then as much of what is not there as is needed to fill the places.
        order = jnp.where(kept, 0, jnp.where(there, 2, 1))
        visible = order.argsort(axis=1)[:, :shown].astype(jnp.int32)
        made = {self.stream: value.replace(visible=visible)}
        return batch | made | ({self.whole: value} if self.whole else {}), {"hidden": there & ~kept}

    def there(self, value) -> jax.Array:
        """Which patches hold anything: bool ``"B L"``."""
        rows, columns = self.grid
        match value:
            case Image():
                return jnp.broadcast_to(value.mask[:, None], (value.mask.shape[0], rows * columns))
            case Audio():
                return jnp.repeat(self.moments(value.mask), columns, axis=1)
        raise InputError(
            f"MaskPatches hides patches of pictures and recordings, and the stream {self.stream!r} is a "
            f"{type(value).__name__}: for words there is MaskTokens"
        )

    def moments(self, mask: jax.Array) -> jax.Array:
        """bool ``"B samples" -> "B moments"``."""
        length = self.grid[0] * (self.samples or 0)
        if not 0 < length <= mask.shape[1]:
            raise InputError(
                f"MaskPatches: {self.grid[0]} moments of samples={self.samples} do not fit the recordings of "
                f"{mask.shape[1]} samples in {self.stream!r}: give `samples` (LogMel's hop times the stem's "
                "frames) and the number of whole moments"
            )
        return mask[:, :length].reshape(len(mask), self.grid[0], -1).any(-1)

    def blocks(self, key: jax.Array, batch: int) -> jax.Array:
        """Scores, the highest to be hidden first: random rectangles, one after the other: ``"B L"``."""
        rows, columns = self.grid
        size_key, shape_key, top_key, left_key, noise_key = jax.random.split(key, 5)
        shape = (batch, RECTANGLES)
        area = rows * columns * jax.random.uniform(size_key, shape, minval=0.08, maxval=0.3)
        # Height to width, evenly in its logarithm: 0.3 to 1 / 0.3.
        aspect = 0.3 ** jax.random.uniform(shape_key, shape, minval=-1.0, maxval=1.0)
        inside = []
        for number, wanted, where in (
            (rows, jnp.sqrt(area * aspect), top_key),
            (columns, jnp.sqrt(area / aspect), left_key),
        ):
            size = jnp.clip(jnp.round(wanted), 1, number)
            start = jnp.floor(jax.random.uniform(where, shape) * (number - size + 1))
            place = jnp.arange(number, dtype=jnp.float32)[None, None, :]
            inside.append((place >= start[..., None]) & (place < (start + size)[..., None]))
        covered = inside[0][:, :, :, None] & inside[1][:, :, None, :]
        first = jnp.where(covered.any(1), covered.argmax(1), RECTANGLES).reshape(batch, -1)
        return RECTANGLES - first + jax.random.uniform(noise_key, first.shape)
