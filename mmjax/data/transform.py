"""What every transform can do: decode a record once, augment it at every use, stand for what is missing."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmjax.batch import Stream
from mmjax.data.records import Record


@runtime_checkable
class Transform(Protocol):
    """A frozen value that turns a record into one stream of an example. No batch axis anywhere here."""

    @property
    def optional(self) -> bool:
        """Whether a record without the field is an example without the stream, rather than a bad example."""
        ...

    def decode(self, record: Record) -> Any:
        """The deterministic part, compact enough to be cached. Raises BadExample."""
        ...

    def augment(self, decoded: Any, rng: np.random.Generator | None) -> Stream:
        """The random part; ``rng`` None is evaluation, and draws nothing."""
        ...

    def empty(self) -> Stream:
        """The same type and shapes with a mask that is False everywhere."""
        ...
