"""A source and the streams that its records become."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.batch import Stream
from mmjax.data.augment import joint
from mmjax.data.records import BadExample, MissingField
from mmjax.data.sources.paths import Reader, Source, replace_path, threadsafe_cache
from mmjax.data.transform import Transform


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Examples: every record of a source, seen through a transform a stream.

    Args:
        source: where the records are.
        streams: the transform of each stream.
        cache: keep what is decoded in memory (uint8 pixels, int16 samples, token ids): later epochs augment.
        rules: what augmentation must leave whole; see :class:`augment.ForbidChanges`, :class:`augment.ShareGeometry`.
    """

    source: Source
    streams: dict[str, Transform]
    cache: bool = False
    rules: tuple[joint.Rule, ...] = ()

    def __post_init__(self):
        joint.check_rules(self.rules, self.streams)

    def open(self) -> "Examples":
        """The examples. Equal datasets share them and their cache. Raises InputError as the source does."""
        return _open(self.source.open(), tuple(self.streams.items()), self.cache, self.rules)

    def empty(self) -> dict[str, Stream]:
        """An example in which everything is missing; its shapes are those of every example."""
        return {name: transform.empty() for name, transform in self.streams.items()}


def with_path(dataset: Dataset, path: str) -> Dataset:
    """The same dataset read from another file or folder in the same layout. Tokenizers stay as they are."""
    return dataclasses.replace(dataset, source=replace_path(dataset.source, path))


@threadsafe_cache
def _open(
    reader: Reader, streams: tuple[tuple[str, Transform], ...], cache: bool, rules: tuple[joint.Rule, ...]
) -> "Examples":
    return Examples(reader, dict(streams), cache, rules)


@dataclasses.dataclass(frozen=True)
class _Decoded:
    """What transforms made of a record, and what its words forbid: {stream: changes}."""

    values: dict[str, Any]
    forbidden: dict[str, frozenset[str]]


class Examples:
    """An open dataset. Safe to call from several threads."""

    def __init__(
        self,
        reader: Reader,
        streams: dict[str, Transform],
        cache: bool,
        rules: tuple[joint.Rule, ...] = (),
    ):
        self._reader, self._streams, self._rules = reader, streams, rules
        # A slot is written whole, and two threads that race for one write the same: no lock is needed.
        self._cache: list[_Decoded | BadExample | None] | None = [None] * len(reader) if cache else None
        self._held: dict[tuple[str, frozenset[str]], Transform] = {}

    def __len__(self) -> int:
        return len(self._reader)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Stream]:
        """The streams of one example, without those that it lacks; ``rng`` None does not augment.

        Raises:
            BadExample: it cannot be used.
        """
        decoded = self._decoded(index)
        if rng is None:
            return {name: self._streams[name].augment(value, None) for name, value in decoded.values.items()}
        shared_draws = joint.shared_generators(self._rules, rng)
        return {
            name: self._transform(name, decoded.forbidden.get(name)).augment(
                value, shared_draws.get(name, rng)
            )
            for name, value in decoded.values.items()
        }

    def _transform(self, name: str, forbidden: frozenset[str] | None) -> Transform:
        if not forbidden:
            return self._streams[name]
        if (name, forbidden) not in self._held:
            self._held[name, forbidden] = self._streams[name].without(forbidden)  # type: ignore[attr-defined]
        return self._held[name, forbidden]

    def _decoded(self, index: int) -> _Decoded:
        if self._cache is None:
            return self._decode(index)
        if (found := self._cache[index]) is None:
            try:
                found = self._decode(index)
            except BadExample as error:
                # A new one without the traceback, which would keep the record's bytes alive.
                found = BadExample(error.key, error.reason)
            self._cache[index] = found
        if isinstance(found, BadExample):
            raise BadExample(found.key, found.reason)
        return found

    def _decode(self, index: int) -> _Decoded:
        record = self._reader[index]
        decoded: dict[str, Any] = {}
        for name, transform in self._streams.items():
            try:
                decoded[name] = transform.decode(record)
            except MissingField:
                if not transform.optional:
                    raise
        return _Decoded(decoded, joint.forbidden_changes(self._rules, self._streams, record, decoded))
