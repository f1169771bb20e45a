"""The interface of augmentations, which change one stream of an example at random."""

import abc
import zlib
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar, get_args

import numpy as np

from mmjax.spec import Spec

# The kinds of changes that `ForbidChanges` can forbid for examples whose text they would contradict.
Change = Literal[
    "flip",  # left-right
    "rotate",  # or shear
    "shift",  # in space or time
    "crop",
    "erase",  # a part is replaced
    "color",  # hue and saturation, or new colors
    "brightness",  # and contrast
    "loudness",
    "noise",
    "pitch",
    "speed",
    "words",  # some are removed
]
CHANGES: frozenset[str] = frozenset(get_args(Change))
# The kinds that `ShareGeometry` applies to several streams alike.
GEOMETRY: frozenset[str] = frozenset({"flip", "rotate", "shift", "crop", "speed"})
T = TypeVar("T", bound="Augmentation")


class Augmentation(Spec, abc.ABC):
    """A random change of one stream; a frozen value. Subclasses per stream type declare `__call__`."""

    @abc.abstractmethod
    def changes(self) -> frozenset[str]:
        """The kinds of `Change` that it may make."""

    def without(self, forbidden: frozenset[str]) -> "Augmentation | None":
        """This augmentation restricted to changes that are not forbidden, or None if nothing remains."""
        return None if self.changes() & forbidden else self


def without(augmentations: tuple[T, ...], forbidden: frozenset[str]) -> tuple[T, ...]:
    """Restricts each augmentation to changes that are not forbidden, and removes those without any left."""
    restricted = [augmentation.without(forbidden) for augmentation in augmentations]
    return tuple(a for a in restricted if a is not None)  # type: ignore[return-value]


def with_generators(
    augmentations: Iterable[T], rng: np.random.Generator
) -> Iterator[tuple[T, np.random.Generator]]:
    """Yields each augmentation with its own generator, seeded by its class and its index within that class.

    Its random numbers therefore do not depend on other augmentations, and streams with equal generators draw
    equal numbers for the augmentations that they have in common.
    """
    seed, num_seen = int(rng.integers(2**63)), dict[str, int]()
    for augmentation in augmentations:
        name = type(augmentation).__name__
        index = num_seen[name] = num_seen.get(name, -1) + 1
        stream = zlib.crc32(f"{name}{index}".encode())
        yield augmentation, np.random.Generator(np.random.Philox(key=[seed, stream]))
