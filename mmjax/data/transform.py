"""The interface of transforms, which turn a record into one stream of an example."""

import abc
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from mmjax.batch import Stream
from mmjax.data.records import Record
from mmjax.spec import Spec

T = TypeVar("T")


class Transform(Spec, abc.ABC):
    """Turns a record into one stream of an example, without a batch axis. Subclasses are frozen dataclasses.

    optional: whether a record may lack the field. If so, the example lacks the stream; if not, it is bad.
    """

    optional: bool

    @abc.abstractmethod
    def decode(self, record: Record) -> Any:
        """Does the deterministic part of the work. Returns arrays of any shape, small enough to be cached.

        Raises:
            MissingField: the record lacks the field.
            BadExample: the field's value cannot be used.
        """

    def locate(self, record: Record) -> None:
        """Raises MissingField if the record lacks the field. Overridden where `decode` is slow."""
        self.decode(record)

    @abc.abstractmethod
    def augment(self, decoded: Any, rng: np.random.Generator | None) -> Stream:
        """Returns the stream of a decoded record, with the shapes of `empty`.

        Args:
            decoded: what `decode` returned.
            rng: randomness of the training augmentation; None in evaluation, which augments nothing.
        """

    @abc.abstractmethod
    def empty(self) -> Stream:
        """Returns the value of a missing stream: the types and shapes of any value, and a mask of False."""

    def without(self, forbidden: frozenset[str]) -> "Transform":
        """Returns this transform without the forbidden kinds of augmentation (`augment.Change`).

        Its `augment` accepts what this transform decoded.
        """
        return self


def choose(decoded: Sequence[T], rng: np.random.Generator | None) -> T:
    """Returns a random one of the decoded alternatives; with `rng=None`, the first."""
    if rng is None or len(decoded) == 1:
        return decoded[0]
    return decoded[int(rng.integers(len(decoded)))]
