"""RandAugment: a few operations out of fourteen, all of one strength."""

import dataclasses
from collections.abc import Callable
from typing import Any

from mmjax.data.augment.base import share
from mmjax.data.augment.image import ImageAugmentation, at_once, one_by_one
from mmjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Operation:
    """A change of a Pillow picture: ``apply(picture, amount, fill)``, the amount 0..most, or -most..most."""

    changes: frozenset[str]
    apply: Callable[[Any, float, Any], Any]
    most: float = 0.0
    signed: bool = False
    each: bool = False  # it looks at neighbours or moves: frames of a clip go one by one


def _affine(picture, matrix, fill):
    from PIL import Image as Pillow

    return picture.transform(
        picture.size, Pillow.Transform.AFFINE, matrix, Pillow.Resampling.BILINEAR, fillcolor=fill
    )


def _rotate(picture, degrees, fill):
    from PIL import Image as Pillow

    return picture.rotate(degrees, Pillow.Resampling.BILINEAR, fillcolor=fill)


def _ops(name: str) -> Callable[..., Any]:
    def apply(picture, amount, fill):
        from PIL import ImageOps

        return getattr(ImageOps, name)(picture)

    return apply


def _solarize(picture, amount, fill):
    from PIL import ImageOps

    return ImageOps.solarize(picture, round(256 - amount))


def _posterize(picture, amount, fill):
    from PIL import ImageOps

    return ImageOps.posterize(picture, 8 - round(amount))


def _enhance(name: str) -> Callable[..., Any]:
    def apply(picture, amount, fill):
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(picture).enhance(1 + amount)

    return apply


def _kinds(*changes: str) -> frozenset[str]:
    return frozenset(changes)


# Ranges of Cubuk et al. 2019 (AutoAugment, table 6), which RandAugment keeps; shifts are shares of the side.
OPERATIONS = {
    "identity": Operation(_kinds(), lambda picture, amount, fill: picture),
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
    """``num_operations`` drawn with replacement, each at ``magnitude`` (Cubuk et al. 2020, section 3).

    magnitude: 0 to 30, a share of each operation's range; signs are drawn.
    operations: names in :data:`OPERATIONS` to draw from.
    fill: grey level of what comes in from outside.
    """

    num_operations: int = 2
    magnitude: float = 9.0
    operations: tuple[str, ...] = tuple(OPERATIONS)
    fill: int = 128
    probability: float = 1.0

    def __post_init__(self):
        share("RandAugment", probability=self.probability)
        if not 0 <= self.magnitude <= 30 or self.num_operations < 1:
            raise InputError(
                f"RandAugment expects a magnitude from 0 to 30 and at least one operation, found "
                f"{self.magnitude} and {self.num_operations}"
            )
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown or not self.operations:
            raise InputError(
                f"RandAugment expects operations among {list(OPERATIONS)}, found {unknown or 'none'}"
            )

    def changes(self):
        return frozenset().union(*(OPERATIONS[name].changes for name in self.operations))

    def without(self, forbidden):
        left = tuple(name for name in self.operations if not OPERATIONS[name].changes & forbidden)
        return dataclasses.replace(self, operations=left) if left else None

    def __call__(self, frames, rng):
        chosen = rng.integers(len(self.operations), size=self.num_operations)
        signs = rng.choice((-1.0, 1.0), self.num_operations)
        if rng.random() >= self.probability:
            return frames
        fill = self.fill if frames.shape[-1] == 1 else (self.fill,) * frames.shape[-1]
        for number, sign in zip(chosen.tolist(), signs.tolist(), strict=True):
            operation = OPERATIONS[self.operations[number]]
            amount = operation.most * self.magnitude / 30 * (sign if operation.signed else 1)
            act = one_by_one if operation.each else at_once
            frames = act(frames, lambda picture, o=operation, a=amount: o.apply(picture, a, fill))
        return frames
