"""Colour jitter and erasing. Crop, flip and shift are fields of ImageTransform, which resizes with them."""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval

from mmjax.data.augment.base import Augmentation
from mmjax.data.pillow_image import to_array, to_pillow
from mmjax.errors import InputError
from mmjax.ranges import Fraction, OpenFraction, Pixel, Positive


class ImageAugmentation(Augmentation):
    """Augments an image, or all frames of a clip with the same random numbers."""

    @abc.abstractmethod
    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 "num height width channel" -> uint8 of the same shape; an image has one frame."""


@dataclasses.dataclass(frozen=True)
class ColorJitter(ImageAugmentation):
    """Jitters brightness, contrast, saturation and hue in random order (Chen et al. 2020, SimCLR, app. A).

    The first three are scaled by 1 - strength to 1 + strength; hue is shifted by up to that fraction of the
    colour circle. Only brightness and contrast apply to grey images.
    """

    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.4
    hue: Annotated[float, Interval(ge=0, le=0.5)] = 0.1
    probability: Fraction = 1.0

    def changes(self):
        brightness = {"brightness"} if self.brightness or self.contrast else set()
        return frozenset(brightness | ({"color"} if self.saturation or self.hue else set()))

    def without(self, forbidden):
        brightness, color = "brightness" not in forbidden, "color" not in forbidden
        if not self.changes() - forbidden:
            return None
        return dataclasses.replace(
            self,
            brightness=self.brightness * brightness,
            contrast=self.contrast * brightness,
            saturation=self.saturation * color,
            hue=self.hue * color,
        )

    def __call__(self, frames, rng):
        from PIL import ImageEnhance

        order, draws, is_applied = rng.permutation(4), rng.uniform(-1, 1, 4), rng.random() < self.probability
        if not is_applied:
            return frames
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

        def jitter(image):
            for i in order:
                amount = float(draws[i]) * strengths[i]
                if not strengths[i] or (image.mode == "L" and i > 1):
                    continue
                image = shift_hue(image, amount) if i == 3 else enhancers[i](image).enhance(1 + amount)
            return image

        return apply_jointly(frames, jitter)


def shift_hue(image: Any, fraction: float) -> Any:
    """Shifts the hues of a Pillow image by a fraction of the colour circle; its shape stays."""
    from PIL import Image as Pillow

    hue, saturation, value = image.convert("HSV").split()
    hue = np.asarray(hue) + np.uint8(round(fraction * 255) % 256)  # wraps around at 256
    return Pillow.merge("HSV", (Pillow.fromarray(hue), saturation, value)).convert("RGB")


@dataclasses.dataclass(frozen=True)
class RandomErasing(ImageAugmentation):
    """Replaces a rectangle by noise or by a grey level (Zhong et al. 2020, algorithm 1).

    area, aspect: (min, max) of the rectangle's fraction of the image, and of its height / width. A rectangle
      that does not fit is sampled again, up to ten times.
    fill: "noise", or a grey level from 0 to 255.
    """

    probability: Fraction = 0.5
    area: tuple[OpenFraction, OpenFraction] = (0.02, 0.4)
    aspect: tuple[Positive, Positive] = (0.3, 1 / 0.3)
    fill: Literal["noise"] | Pixel = "noise"

    def __post_init__(self):
        for name in ("area", "aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise InputError(f"RandomErasing expects {name} (min, max), found {(low, high)}")

    def changes(self):
        return frozenset({"erase"})

    def __call__(self, frames, rng):
        if rng.random() >= self.probability:
            return frames
        _, height, width, channels = frames.shape
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            aspect = math.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < rows < height and 0 < columns < width):
                continue
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            fill = self.fill
            if fill == "noise":
                fill = rng.integers(0, 256, (rows, columns, channels), np.uint8)
            frames = frames.copy()
            frames[:, top : top + rows, left : left + columns] = fill
            return frames
        return frames


def apply_jointly(frames: np.ndarray, change: Callable[[Any], Any]) -> np.ndarray:
    """Changes all frames "num height width channel" as one image, so that they share statistics."""
    num, height, width, channels = frames.shape
    changed = change(to_pillow(frames.reshape(num * height, width, channels)))
    return to_array(changed).reshape(frames.shape)


def apply_per_frame(frames: np.ndarray, change: Callable[[Any], Any]) -> np.ndarray:
    """Changes each of the frames "num height width channel" by itself."""
    return np.stack([to_array(change(to_pillow(frame))) for frame in frames])
