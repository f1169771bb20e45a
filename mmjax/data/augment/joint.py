"""Rules of a dataset, so that no augmentation breaks what belongs together."""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmjax.data.augment.base import CHANGES, Augmentation, Change
from mmjax.data.records import Record
from mmjax.errors import InputError

SIDE_WORDS = ("left", "right", "leftwards", "rightwards", "clockwise", "counterclockwise", "anticlockwise")
COLOR_WORDS = (
    "red", "orange", "yellow", "green", "blue", "purple", "violet", "pink", "brown", "black", "white", "grey",
    "gray", "gold", "golden", "silver", "beige", "cyan", "turquoise", "magenta", "color", "colors", "colour",
    "colours", "colorful", "colourful",
)  # fmt: skip


@runtime_checkable
class Augmented(Protocol):
    """A transform whose augmentation rules can hold back."""

    @property
    def augmentations(self) -> tuple[Augmentation, ...]: ...

    def without(self, forbidden: frozenset[str]) -> Any:
        """The same transform without these changes."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A transform of what can be moved alike with others."""

    def geometry(self) -> tuple[Any, ...]:
        """What must be equal in two transforms for equal draws to move both alike."""
        ...


@runtime_checkable
class Saying(Protocol):
    """A transform of words."""

    def possible_text(self, record: Record) -> str:
        """All that the stream's words may be. Raises BadExample."""
        ...


@dataclasses.dataclass(frozen=True)
class ForbidChanges:
    """No such changes of a stream in the examples whose words say one of these.

    ``ForbidChanges("image", ("flip",), when="text", says=SIDES)``: no mirror where they say left. An augmentation
    that makes several kinds of changes goes on without the forbidden ones. Words count in any of the texts
    that the example could show, in upper or lower case; a word in a script without the two, as Japanese,
    counts within others too. Streams that are moved together are held back together. An example without the
    stream of words is free.

    stream: whose augmentation is held back.
    changes: kinds of :data:`Change`.
    when: the stream of words (TextTransform).
    says: whole words or phrases.
    """

    stream: str
    changes: tuple[Change, ...]
    when: str
    says: tuple[str, ...]

    def __post_init__(self):
        unknown = sorted(set(self.changes) - CHANGES)
        if unknown or not self.changes:
            raise InputError(
                f"ForbidChanges expects changes among {sorted(CHANGES)}, found {unknown or 'none'}"
            )
        if not self.phrases or not all(word.strip() for word in self.phrases):
            raise InputError(f"ForbidChanges expects words in `says`, found {self.phrases}")

    def matches(self, words: str) -> bool:
        """Whether the words say one of `says`."""
        return _pattern(self.phrases).search(words) is not None

    def fits(self, streams: Mapping[str, Any]) -> None:
        """Refuses streams that the dataset does not have, or of which the rule would say nothing."""
        _known("ForbidChanges", (self.stream,), streams, Augmented, "that can be augmented")
        _known("ForbidChanges", (self.text_stream,), streams, Saying, "of words (TextTransform)")


@dataclasses.dataclass(frozen=True)
class ShareGeometry:
    """Streams that are cropped, mirrored, turned and moved alike, as a picture and its depth.

    What else they draw may differ, such as colour for one of them only.
    """

    streams: tuple[str, ...]

    def fits(self, streams: Mapping[str, Any]) -> None:
        """Refuses streams that equal draws would not move alike."""
        if len(set(self.streams)) < 2:
            raise InputError(f"Together expects at least two streams, found {list(self.streams)}")
        _known("Together", self.streams, streams, Movable, "of pictures or recordings")
        first, *others = self.streams
        wanted = streams[first].geometry()
        for other in others:
            if type(streams[other]) is not type(streams[first]) or streams[other].geometry() != wanted:
                raise InputError(
                    f"Together expects what moves {first!r} and {other!r} to be equal (one field path each, "
                    "size, crops, flip, shifts, gain, tiles, and augmentations that turn, move or change "
                    f"speed), found {wanted} and {streams[other].geometry()}"
                )


Rule = ForbidChanges | ShareGeometry


def check_rules(rules: tuple[Rule, ...], streams: Mapping[str, Any]) -> None:
    """Refuses rules that do not fit the streams, and a stream that is moved together with two groups."""
    moved = [stream for rule in rules if isinstance(rule, ShareGeometry) for stream in rule.streams]
    if twice := sorted({stream for stream in moved if moved.count(stream) > 1}):
        raise InputError(f"expected each stream in one Together at most, found {twice} in several: join them")
    for rule in rules:
        rule.fits(streams)


def forbidden_changes(
    rules: tuple[Rule, ...], streams: Mapping[str, Any], record: Record, there: Any
) -> dict:
    """{stream: the changes that the record's words forbid}, of the streams that are ``there``."""
    found: dict[str, frozenset[str]] = {}
    for rule in rules:
        if (
            isinstance(rule, ForbidChanges)
            and rule.text_stream in there
            and rule.matches(streams[rule.text_stream].possible_text(record))
        ):
            found[rule.stream] = found.get(rule.stream, frozenset()) | set(rule.changes)
    for rule in rules:
        if isinstance(rule, ShareGeometry):
            held = frozenset().union(*(found.get(stream, frozenset()) for stream in rule.streams))
            found |= dict.fromkeys(rule.streams, held) if held else {}
    return found


def shared_generators(rules: tuple[Rule, ...], rng: np.random.Generator) -> dict[str, np.random.Generator]:
    """{stream: its generator} of streams that are moved together: equal ones, so that they draw alike."""
    made: dict[str, np.random.Generator] = {}
    for rule in rules:
        if isinstance(rule, ShareGeometry):
            seed = int(rng.integers(2**63))
            made |= {stream: np.random.Generator(np.random.Philox(key=[seed, 0])) for stream in rule.streams}
    return made


@functools.lru_cache(maxsize=256)
def _pattern(words: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(map(_whole, words)), re.IGNORECASE)


def _whole(word: str) -> str:
    """A pattern of the whole word; letters without case are of scripts that may not part words by spaces."""
    word = word.strip()
    caseless = [unicodedata.category(end) in ("Lo", "Mc", "Mn") for end in (word[0], word[-1])]
    return ("" if caseless[0] else r"(?<!\w)") + re.escape(word) + ("" if caseless[1] else r"(?!\w)")


def _known(owner: str, named: tuple[str, ...], streams: Mapping[str, Any], kind: type, what: str) -> None:
    valid = sorted(name for name, transform in streams.items() if isinstance(transform, kind))
    wrong = [name for name in named if name not in valid]
    if wrong:
        raise InputError(f"{owner} expects a stream {what} among {valid}, found {wrong}")
