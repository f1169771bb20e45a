"""What an augmentation is: a random change of one stream of an example, that says what it changes."""

import abc
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from mmjax.errors import InputError

# What words can speak of, so that a rule can forbid it for the examples whose words do (joint.py).
Change = Literal[
    "flip",  # left and right exchanged
    "rotate",  # turned or slanted
    "shift",  # elsewhere in the picture or in time
    "crop",  # what is at the edge is gone, the rest is larger
    "erase",  # a part is gone
    "color",  # hue, saturation, or colours that are not there
    "brightness",  # brightness and contrast
    "loudness",
    "noise",
    "pitch",
    "speed",
    "words",  # some are gone
]
CHANGES: frozenset[str] = frozenset(get_args(Change))
# Those that streams that are moved together must share.
GEOMETRY: frozenset[str] = frozenset({"flip", "rotate", "shift", "crop", "speed"})
T = TypeVar("T", bound="Augmentation")


class Augmentation(abc.ABC):
    """A frozen value. What it is called with, and what it returns, is said by its kind for each stream."""

    @abc.abstractmethod
    def changes(self) -> frozenset[str]:
        """The kinds of :data:`Change` that it may make."""

    @abc.abstractmethod
    def without(self, forbidden: frozenset[str]) -> "Augmentation | None":
        """What is left of it where some changes are forbidden."""


def without(augmentations: tuple[T, ...], forbidden: frozenset[str]) -> tuple[T, ...]:
    """Those that make no forbidden change, and what is left of the others."""
    left = [augmentation.without(forbidden) for augmentation in augmentations]
    return tuple(augmentation for augmentation in left if augmentation is not None)  # type: ignore[return-value]


def with_generators(
    augmentations: Iterable[T], rng: np.random.Generator
) -> Iterator[tuple[T, np.random.Generator]]:
    """Each with a generator of its own, known by its class and how many of that class came before.

    So what one draws depends on no other: streams that are moved together share the draws of what they share.
    """
    seed, seen = int(rng.integers(2**63)), dict[str, int]()
    for augmentation in augmentations:
        name = type(augmentation).__name__
        seen[name] = seen.get(name, -1) + 1
        stream = zlib.crc32(f"{name}{seen[name]}".encode())
        yield augmentation, np.random.Generator(np.random.Philox(key=[seed, stream]))


def check_kind(augmentations: tuple[Any, ...], kind: type, where: str) -> None:
    """Refuses what is no augmentation of this kind of stream."""
    for augmentation in augmentations:
        if not isinstance(augmentation, kind):
            valid = sorted(cls.__name__ for cls in kind.__subclasses__())
            raise InputError(
                f"{where} expects augmentations among data.augment.{valid}, found {augmentation!r}"
            )


def share(owner: str, **values: float) -> None:
    """Refuses what is no probability or share."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise InputError(f"{owner} expects {name} from 0 to 1, found {value}")
