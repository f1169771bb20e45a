"""A dataset: a source, and the transforms of its records."""

import dataclasses
import functools
import logging
import traceback
from typing import Any

import numpy as np

from mmjax.batch import Stream
from mmjax.data.augment import joint
from mmjax.data.collate import describe_mismatch
from mmjax.data.records import BadExample, MissingField
from mmjax.data.sources.base import Reader, Source, replace_path, threadsafe_cache
from mmjax.data.transform import Transform
from mmjax.errors import InputError, Interrupted, one_line
from mmjax.spec import Spec

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Dataset(Spec):
    """Turns each record of a source into an example, by one transform per stream.

    source: the records.
    streams: {stream: transform}.
    cache: keep decoded streams in memory (uint8 pixels, int16 samples, token ids), so that later epochs
        only augment.
    rules: limits of augmentation: `augment.ForbidChanges`, `augment.ShareGeometry`.
    """

    source: Source
    streams: dict[str, Transform]
    cache: bool = False
    rules: tuple[joint.Rule, ...] = ()

    def __post_init__(self):
        joint.check_rules(self.rules, self.streams)

    def open(self) -> "Examples":
        """Opens the source. Equal datasets share one result and its cache. Raises InputError."""
        return _open(self.source.open(), tuple(self.streams.items()), self.cache, self.rules)

    def empty(self) -> dict[str, Stream]:
        """{stream: missing value}, with the types and shapes of every example."""
        return {name: transform.empty() for name, transform in self.streams.items()}


def with_path(dataset: Dataset, path: str) -> Dataset:
    """The same dataset, read from another file or folder of the same layout. Tokenizers do not change."""
    return dataclasses.replace(dataset, source=replace_path(dataset.source, path))


@threadsafe_cache
def _open(
    reader: Reader, streams: tuple[tuple[str, Transform], ...], cache: bool, rules: tuple[joint.Rule, ...]
) -> "Examples":
    return Examples(reader, dict(streams), cache, rules)


@dataclasses.dataclass(frozen=True)
class _Decoded:
    key: str
    values: dict[str, Any]  # {stream: what its transform decoded}
    forbidden: dict[str, frozenset[str]]  # {stream: changes that the rules forbid for this record}


class Examples:
    """An open dataset. Safe to call from several threads."""

    def __init__(
        self, reader: Reader, streams: dict[str, Transform], cache: bool, rules: tuple[joint.Rule, ...] = ()
    ):
        self._reader, self._streams, self._rules = reader, streams, rules
        # No lock: assigning an item is atomic, and threads that race for one index write equal values.
        self._cache: list[_Decoded | BadExample | None] | None = [None] * len(reader) if cache else None
        self._restricted: dict[tuple[str, frozenset[str]], Transform] = {}

    def __len__(self) -> int:
        return len(self._reader)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Stream]:
        """Returns the streams that one example has.

        Args:
            index: of the record in the source.
            rng: randomness of the augmentation; None: not augmented.

        Raises:
            BadExample: the record cannot be used.
        """
        decoded = self._decoded(index)
        shared_draws = {} if rng is None else joint.shared_generators(self._rules, rng)
        example: dict[str, Stream] = {}
        for name, value in decoded.values.items():
            transform = self._streams[name]
            if rng is not None:
                transform = self._transform(name, decoded.forbidden.get(name))
            with _AsBadExample(decoded.key, "augment", name):
                example[name] = transform.augment(value, shared_draws.get(name, rng))
            if mismatch := describe_mismatch(example[name], self._empty[name]):
                raise BadExample(decoded.key, f"the stream {name!r}: {mismatch}")
        return example

    def missing_streams(self, index: int) -> dict[str, str]:
        """{stream: reason} of the streams whose fields a record lacks. Raises BadExample as a source."""
        record = self._reader[index]
        key, missing = str(record["__key__"]), {}
        for name, transform in self._streams.items():
            try:
                with _AsBadExample(key, "decode", name):
                    transform.locate(record)
            except MissingField as error:
                missing[name] = error.reason
            except BadExample:
                continue  # the field is there, and bad
        return missing

    @functools.cached_property
    def _empty(self) -> dict[str, Stream]:
        return {name: transform.empty() for name, transform in self._streams.items()}

    def _transform(self, name: str, forbidden: frozenset[str] | None) -> Transform:
        if not forbidden:
            return self._streams[name]
        if (name, forbidden) not in self._restricted:
            self._restricted[name, forbidden] = self._streams[name].without(forbidden)
        return self._restricted[name, forbidden]

    def _decoded(self, index: int) -> _Decoded:
        if self._cache is None:
            return self._decode(index)
        if (cached := self._cache[index]) is None:
            try:
                cached = self._decode(index)
            except BadExample as error:
                # A copy without the traceback, which would keep the record's bytes alive.
                cached = BadExample(error.key, error.reason)
            self._cache[index] = cached
        if isinstance(cached, BadExample):
            raise BadExample(cached.key, cached.reason)
        return cached

    def _decode(self, index: int) -> _Decoded:
        with _AsBadExample(f"record {index}", "reading"):
            record = self._reader[index]
            key = str(record["__key__"])
        decoded: dict[str, Any] = {}
        for name, transform in self._streams.items():
            try:
                with _AsBadExample(key, "decode", name):
                    decoded[name] = transform.decode(record)
            except MissingField:
                if not transform.optional:
                    raise
        with _AsBadExample(key, "the rules of the dataset"):
            forbidden = joint.forbidden_changes(self._rules, self._streams, record, decoded)
        return _Decoded(key, decoded, forbidden)


_logged: set[tuple[type, str, int]] = set()  # (type, file, line) of the unexpected errors that were logged


class _AsBadExample:
    """Turns any error of one record into a BadExample: decoders raise too many kinds of errors to list them.

    The first unexpected error of each type and line is logged with its traceback, which shows a programming
    error of a transform. This is a class because it runs for every stream of every example.

    key: of the record. work, stream: what is being done, for the message.
    """

    __slots__ = ("key", "stream", "work")

    def __init__(self, key: str, work: str, stream: str = ""):
        self.key, self.work, self.stream = key, work, stream

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, BadExample | InputError | Interrupted):
            return
        # Rust libraries, such as tokenizers, raise their panics as a BaseException that cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            return
        work = f"{self.work} of the stream {self.stream!r}" if self.stream else self.work
        _log_once(self.key, work, error)
        raise BadExample(self.key, f"{work} raised {type(error).__name__}: {error}") from error


def _log_once(key: str, work: str, error: BaseException) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    kind = (type(error), frames[-1].filename, frames[-1].lineno or 0)
    if kind in _logged:
        return
    _logged.add(kind)
    _LOG.warning(
        "%s raised %s for the record %s, which is skipped. Later errors of this line are only counted:\n%s",
        work, one_line(f"{type(error).__name__}: {error}"), one_line(key), "".join(frames.format()),
    )  # fmt: skip
