"""RandAugment: a few of fourteen image operations, all of the same strength."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

from annotated_types import Interval

from mmjax.data.augment.image import ImageAugmentation, apply_jointly, apply_per_frame
from mmjax.errors import InputError
from mmjax.ranges import Depth, Finite, Fraction, Pixel


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation on a Pillow image.

    changes: its kinds of `Change`. apply: (image, amount, fill) -> image.
    max_amount, is_signed: the amount is from 0 to max_amount, or from -max_amount.
    is_spatial: it depends on neighbouring pixels, so that frames of a clip are changed one by one.
    """

    changes: frozenset[str]
    apply: Callable[[Any, float, Any], Any]
    max_amount: Finite = 0.0
    is_signed: bool = False
    is_spatial: bool = False


def _affine(image, matrix, fill):
    from PIL import Image as Pillow

    return image.transform(
        image.size, Pillow.Transform.AFFINE, matrix, Pillow.Resampling.BILINEAR, fillcolor=fill
    )


def _rotate(image, degrees, fill):
    from PIL import Image as Pillow

    return image.rotate(degrees, Pillow.Resampling.BILINEAR, fillcolor=fill)


def _ops(name: str) -> Callable[..., Any]:
    def apply(image, amount, fill):
        from PIL import ImageOps

        return getattr(ImageOps, name)(image)

    return apply


def _solarize(image, amount, fill):
    from PIL import ImageOps

    return ImageOps.solarize(image, round(256 - amount))


def _posterize(image, amount, fill):
    from PIL import ImageOps

    return ImageOps.posterize(image, 8 - round(amount))


def _enhance(name: str) -> Callable[..., Any]:
    def apply(image, amount, fill):
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(image).enhance(1 + amount)

    return apply


def _kinds(*changes: str) -> frozenset[str]:
    return frozenset(changes)


# Ranges of Cubuk et al. 2019 (AutoAugment, table 6), as in RandAugment; shifts are fractions of the side.
OPERATIONS = {
    "identity": Operation(_kinds(), lambda image, amount, fill: image),
    "autocontrast": Operation(_kinds("brightness", "color"), _ops("autocontrast")),
    "equalize": Operation(_kinds("brightness", "color"), _ops("equalize")),
    "rotate": Operation(_kinds("rotate"), _rotate, 30.0, True, True),
    "solarize": Operation(_kinds("brightness", "color"), _solarize, 256.0),
    "color": Operation(_kinds("color"), _enhance("Color"), 0.9, True),
    "posterize": Operation(_kinds("brightness", "color"), _posterize, 4.0),
    "contrast": Operation(_kinds("brightness"), _enhance("Contrast"), 0.9, True),
    "brightness": Operation(_kinds("brightness"), _enhance("Brightness"), 0.9, True),
    "sharpness": Operation(_kinds(), _enhance("Sharpness"), 0.9, True, True),
    "shear_x": Operation(
        _kinds("rotate"), lambda p, a, fill: _affine(p, (1, a, 0, 0, 1, 0), fill), 0.3, True, True
    ),
    "shear_y": Operation(
        _kinds("rotate"), lambda p, a, fill: _affine(p, (1, 0, 0, a, 1, 0), fill), 0.3, True, True
    ),
    "translate_x": Operation(
        _kinds("shift"), lambda p, a, fill: _affine(p, (1, 0, a * p.width, 0, 1, 0), fill), 0.45, True, True
    ),
    "translate_y": Operation(
        _kinds("shift"), lambda p, a, fill: _affine(p, (1, 0, 0, 0, 1, a * p.height), fill), 0.45, True, True
    ),
}


@dataclasses.dataclass(frozen=True)
class RandAugment(ImageAugmentation):
    """Applies `num_operations` random operations, sampled with replacement (Cubuk et al. 2020, section 3).

    magnitude: from 0 to 30, where 30 is each operation's max_amount; signs are random.
    operations: names in `OPERATIONS` to sample from. fill: grey level of pixels from outside the image.
    """

    num_operations: Depth = 2
    magnitude: Annotated[float, Interval(ge=0, le=30)] = 9.0
    operations: tuple[str, ...] = tuple(OPERATIONS)
    fill: Pixel = 128
    probability: Fraction = 1.0

    def __post_init__(self):
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown or not self.operations:
            raise InputError(
                f"RandAugment expects operations among {list(OPERATIONS)}, found {unknown or 'none'}"
            )

    def changes(self):
        return frozenset().union(*(OPERATIONS[name].changes for name in self.operations))

    def without(self, forbidden):
        allowed = tuple(name for name in self.operations if not OPERATIONS[name].changes & forbidden)
        return dataclasses.replace(self, operations=allowed) if allowed else None

    def __call__(self, frames, rng):
        sampled = rng.integers(len(self.operations), size=self.num_operations)
        signs = rng.choice((-1.0, 1.0), self.num_operations)
        if rng.random() >= self.probability:
            return frames
        fill = self.fill if frames.shape[-1] == 1 else (self.fill,) * frames.shape[-1]
        for index, sign in zip(sampled.tolist(), signs.tolist(), strict=True):
            operation = OPERATIONS[self.operations[index]]
            amount = operation.max_amount * self.magnitude / 30 * (sign if operation.is_signed else 1)
            apply = apply_per_frame if operation.is_spatial else apply_jointly
            frames = apply(frames, lambda image, o=operation, a=amount: o.apply(image, a, fill))
        return frames
