"""Colour and erasing. Crop, mirror and shift are fields of ImageTransform: they act while it scales."""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from mmjax.data.augment.base import Augmentation, share
from mmjax.data.pillow_image import to_array, to_pillow
from mmjax.errors import InputError


class ImageAugmentation(Augmentation):
    """Acts on the frames of a clip, or on the one of a picture, with one draw for all of them."""

    @abc.abstractmethod
    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 "num height width channel" -> the same shape."""


@dataclasses.dataclass(frozen=True)
class ColorJitter(ImageAugmentation):
    """Brightness, contrast, saturation and hue, in random order (Chen et al. 2020, SimCLR, appendix A).

    The first three are factors from 1 - strength to 1 + strength; hue turns by up to that share of the
    circle. A grey picture has the first two.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    probability: float = 1.0

    def __post_init__(self):
        share("ColorJitter", brightness=self.brightness, contrast=self.contrast, saturation=self.saturation)
        share("ColorJitter", probability=self.probability)
        if not 0 <= self.hue <= 0.5:
            raise InputError(f"ColorJitter expects hue from 0 to 0.5, found {self.hue}")

    def changes(self):
        light = {"brightness"} if self.brightness or self.contrast else set()
        return frozenset(light | ({"color"} if self.saturation or self.hue else set()))

    def without(self, forbidden):
        light, color = "brightness" not in forbidden, "color" not in forbidden
        if not self.changes() - forbidden:
            return None
        return dataclasses.replace(
            self,
            brightness=self.brightness * light,
            contrast=self.contrast * light,
            saturation=self.saturation * color,
            hue=self.hue * color,
        )

    def __call__(self, frames, rng):
        from PIL import ImageEnhance

        order, draws, chosen = rng.permutation(4), rng.uniform(-1, 1, 4), rng.random() < self.probability
        if not chosen:
            return frames
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

        def jittered(picture):
            for which in order:
                amount = float(draws[which]) * strengths[which]
                if not strengths[which] or (picture.mode == "L" and which > 1):
                    continue
                picture = (
                    turned(picture, amount) if which == 3 else enhancers[which](picture).enhance(1 + amount)
                )
            return picture

        return at_once(frames, jittered)


def turned(picture: Any, share_of_circle: float) -> Any:
    """The picture with its hues turned."""
    from PIL import Image as Pillow

    hue, saturation, value = picture.convert("HSV").split()
    hue = np.asarray(hue) + np.uint8(round(share_of_circle * 255) % 256)  # modulo 256: hue is a circle
    return Pillow.merge("HSV", (Pillow.fromarray(hue), saturation, value)).convert("RGB")


@dataclasses.dataclass(frozen=True)
class RandomErasing(ImageAugmentation):
    """One rectangle is replaced by noise, or by a grey level (Zhong et al. 2020, algorithm 1).

    area, aspect: (least, most) of the rectangle, as a share of the picture and as height / width. A rectangle
    that does not fit is drawn again, up to ten times.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    fill: Literal["noise"] | int = "noise"

    def __post_init__(self):
        share("RandomErasing", probability=self.probability)
        if not 0 < self.area[0] <= self.area[1] < 1:
            raise InputError(f"RandomErasing expects area (least, most) between 0 and 1, found {self.area}")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise InputError(f"RandomErasing expects aspect (least, most) above 0, found {self.aspect}")
        if self.fill != "noise" and not (isinstance(self.fill, int) and 0 <= self.fill <= 255):
            raise InputError(
                f"RandomErasing expects fill='noise' or a grey level to 255, found {self.fill!r}"
            )

    def changes(self):
        return frozenset({"erase"})

    def without(self, forbidden):
        return None if "erase" in forbidden else self

    def __call__(self, frames, rng):
        if rng.random() >= self.probability:
            return frames
        _, height, width, channels = frames.shape
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            aspect = math.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            down, right = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < down < height and 0 < right < width):
                continue
            top, left = int(rng.integers(height - down + 1)), int(rng.integers(width - right + 1))
            piece = (
                rng.integers(0, 256, (down, right, channels), np.uint8) if self.fill == "noise" else self.fill
            )
            frames = frames.copy()
            frames[:, top : top + down, left : left + right] = piece
            return frames
        return frames


def at_once(frames: np.ndarray, change: Callable[[Any], Any]) -> np.ndarray:
    """A change of values, of all frames as one picture: what it measures, such as a mean, they share."""
    num, height, width, channels = frames.shape
    changed = change(to_pillow(frames.reshape(num * height, width, channels)))
    return to_array(changed).reshape(frames.shape)


def one_by_one(frames: np.ndarray, change: Callable[[Any], Any]) -> np.ndarray:
    """A change of places, of each frame by itself."""
    return np.stack([to_array(change(to_pillow(frame))) for frame in frames])
