"""Rules of a dataset that keep augmentation consistent with the text and across streams."""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmjax.data.augment.base import CHANGES, Augmentation, Change
from mmjax.data.records import Record
from mmjax.data.transform import Transform
from mmjax.errors import InputError
from mmjax.spec import Spec

SIDE_WORDS = ("left", "right", "leftwards", "rightwards", "clockwise", "counterclockwise", "anticlockwise")
COLOR_WORDS = (
    "red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "brown", "black", "white", "grey",
    "gray", "gold", "golden", "silver", "beige", "cyan", "turquoise", "magenta", "color", "colors", "colour",
    "colours", "colorful", "colourful",
)  # fmt: skip


@runtime_checkable
class HasAugmentations(Protocol):
    """A transform whose changes a rule can forbid."""

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """Applied in training, in this order."""


@runtime_checkable
class HasGeometry(Protocol):
    """A transform that can share its geometric changes with another."""

    def geometry(self) -> tuple[Any, ...]:
        """The settings that two transforms must share, so that equal random draws move both alike."""


@runtime_checkable
class HasText(Protocol):
    """A transform of text."""

    def possible_text(self, record: Record) -> str:
        """All texts that the stream may show for a record. Raises BadExample."""


@dataclasses.dataclass(frozen=True)
class ForbidChanges(Spec):
    """Forbids changes of a stream in examples whose text contains certain words.

    `ForbidChanges("image", ("flip",), text_stream="text", phrases=SIDE_WORDS)` never flips an image whose
    text says "left". Augmentations with several kinds of changes make only the others. All
    texts that the example may show are searched. Streams under one `ShareGeometry` are restricted together.
    Examples without the text stream are not restricted.

    stream: the stream to restrict. changes: kinds of `Change`. text_stream: a stream with a TextTransform.
    phrases: words or phrases, matched whole and regardless of case. At characters without case, as in
      Japanese, a part of a word matches too, since such scripts may not separate words by spaces.
    """

    stream: str
    changes: tuple[Change, ...]
    text_stream: str
    phrases: tuple[str, ...]

    def __post_init__(self):
        unknown = sorted(set(self.changes) - CHANGES)
        if unknown or not self.changes:
            raise InputError(
                f"ForbidChanges expects changes among {sorted(CHANGES)}, found {unknown or 'none'}"
            )
        if not self.phrases or not all(phrase.strip() for phrase in self.phrases):
            raise InputError(f"ForbidChanges expects non-empty phrases, found {self.phrases}")

    def matches(self, text: str) -> bool:
        """Whether the text contains one of the phrases."""
        return _pattern(self.phrases).search(text) is not None

    def check_streams(self, streams: Mapping[str, Transform]) -> None:
        """Raises InputError if the dataset lacks the streams, or their transforms do not fit the rule."""
        _check_kind("ForbidChanges", (self.stream,), streams, HasAugmentations, "with augmentations")
        _check_kind("ForbidChanges", (self.text_stream,), streams, HasText, "with text (TextTransform)")


@dataclasses.dataclass(frozen=True)
class ShareGeometry(Spec):
    """Crops, flips, rotates and shifts several streams alike, such as an image and its depth map.

    Their other augmentations may differ, e.g. colour jitter of one of them.
    """

    streams: tuple[str, ...]

    def check_streams(self, streams: Mapping[str, Transform]) -> None:
        """Raises InputError if the streams' transforms differ in their geometry."""
        if len(set(self.streams)) < 2:
            raise InputError(f"ShareGeometry expects at least two streams, found {list(self.streams)}")
        _check_kind("ShareGeometry", self.streams, streams, HasGeometry, "of images or audio")
        first, *others = (streams[name] for name in self.streams)
        for name, other in zip(self.streams[1:], others, strict=True):
            if type(other) is not type(first) or other.geometry() != first.geometry():
                raise InputError(
                    f"ShareGeometry expects equal geometry of {self.streams[0]!r} and {name!r} (one field "
                    "path each, size, crops, flip, shifts, gain, tiles, and augmentations that rotate, shift "
                    f"or change speed), found {first.geometry()} and {other.geometry()}"
                )


Rule = ForbidChanges | ShareGeometry


def check_rules(rules: tuple[Rule, ...], streams: Mapping[str, Transform]) -> None:
    """Raises InputError if a rule does not fit the streams, or a stream is in several ShareGeometry rules."""
    sharing = [stream for rule in rules if isinstance(rule, ShareGeometry) for stream in rule.streams]
    if repeated := sorted({stream for stream in sharing if sharing.count(stream) > 1}):
        raise InputError(
            f"expected each stream in at most one ShareGeometry, found {repeated} in several: merge them"
        )
    for rule in rules:
        rule.check_streams(streams)


def forbidden_changes(
    rules: tuple[Rule, ...], streams: Mapping[str, Any], record: Record, present: Collection[str]
) -> dict[str, frozenset[str]]:
    """{stream: kinds of changes} that the text of a record with the streams `present` forbids."""
    forbidden: dict[str, frozenset[str]] = {}
    for rule in rules:
        if isinstance(rule, ForbidChanges) and rule.text_stream in present:
            if rule.matches(streams[rule.text_stream].possible_text(record)):
                forbidden[rule.stream] = forbidden.get(rule.stream, frozenset()) | set(rule.changes)
    for rule in rules:
        if isinstance(rule, ShareGeometry):
            union = frozenset().union(*(forbidden.get(stream, frozenset()) for stream in rule.streams))
            forbidden |= dict.fromkeys(rule.streams, union) if union else {}
    return forbidden


def shared_generators(rules: tuple[Rule, ...], rng: np.random.Generator) -> dict[str, np.random.Generator]:
    """{stream: generator} for streams of ShareGeometry rules; generators of one rule are equal."""
    generators: dict[str, np.random.Generator] = {}
    for rule in rules:
        if isinstance(rule, ShareGeometry):
            seed = int(rng.integers(2**63))
            for stream in rule.streams:
                generators[stream] = np.random.Generator(np.random.Philox(key=[seed, 0]))
    return generators


@functools.lru_cache(maxsize=256)
def _pattern(phrases: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(map(_whole_phrase, phrases)), re.IGNORECASE)


def _whole_phrase(phrase: str) -> str:
    """A regular expression with word boundaries, except at characters of scripts without case."""
    phrase = phrase.strip()
    caseless = [unicodedata.category(end) in ("Lo", "Mc", "Mn") for end in (phrase[0], phrase[-1])]
    return ("" if caseless[0] else r"(?<!\w)") + re.escape(phrase) + ("" if caseless[1] else r"(?!\w)")


def _check_kind(
    owner: str, names: tuple[str, ...], streams: Mapping[str, Any], kind: type, description: str
) -> None:
    valid = sorted(name for name, transform in streams.items() if isinstance(transform, kind))
    if invalid := [name for name in names if name not in valid]:
        raise InputError(f"{owner} expects a stream {description} among {valid}, found {invalid}")
