"""Records, the entries of a source: `{"__key__": str, field: bytes | str | ...}`; looking up their values."""

import codecs
import difflib
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

from mmjax.errors import MAX_EXCERPT, excerpt, one_line

Record: TypeAlias = Mapping[str, Any]
T = TypeVar("T")

MAX_FIELD_BYTES = 256 * 2**20  # of one field of one record; a larger one makes the record bad
MAX_JSON_BYTES = 8 * 2**20  # parsed JSON takes up to 30 times its size
MAX_TEXT = 4 * 2**20  # characters, or bytes; longer texts are cut
_MAX_LISTED = 10  # names in a message
_MAX_COMPARED = 100  # fields that a missing one is compared with


class BadExample(Exception):
    """One example cannot be used: it is skipped, counted and logged, and stops the run only if many are bad.

    key: the record's `__key__`.
    reason: what was expected and what was found.
    """

    def __init__(self, key: str, reason: str):
        key, reason = one_line(str(key), MAX_EXCERPT), one_line(reason)
        # Both arguments are in `args`, so that the exception can be pickled between processes.
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


class MissingField(BadExample):
    """The record has no value at the path. Makes the example bad unless the stream is optional."""


def lookup(record: Record, path: str) -> Any:
    """The value at a dotted path: the longest field name that the path starts with, then keys of its JSON.

    `"noto.png"` is the field of that name; `"json.names.de"` is the field `json`, parsed, then its `names`,
    then `de`; `"json.keywords.0"` is the first item of a list.

    >>> lookup({"__key__": "7", "json": b'{"names": {"de": "Hund"}}'}, "json.names.de")
    'Hund'

    Raises:
        MissingField: no such field or key.
        BadExample: the field's JSON is invalid.
    """
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        field = ".".join(parts[:end])
        if field in record:
            return _descend(record, path, field, parts[end:])
    fields = tuple(str(name) for name in record if name != "__key__")
    found = f"found only {_list(fields)}{_suggest(path, fields[:_MAX_COMPARED])}"
    raise MissingField(record["__key__"], f"expected the field {path!r}, {found}")


def _list(names: Iterable[Any]) -> str:
    """The first names in order, for a message."""
    names = sorted(map(str, names))
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"[{', '.join(excerpt(name, 40) for name in names[:_MAX_LISTED])}]{more}"


@functools.lru_cache(maxsize=64)  # every record without an optional field asks again
def _suggest(path: str, fields: tuple[str, ...]) -> str:
    """Suggests a field that is close to the path: `jpeg` for `jpg`, `1.jpg` in `photo.1.jpg`; else ""."""
    for field in fields:
        if field.endswith(f".{path}"):
            return (
                f". Fields begin after the first dot of a file name: write {excerpt(field)}, or rename files"
            )
    folded = {field.lower(): field for field in fields}
    close = difflib.get_close_matches(path.lower(), folded, n=1, cutoff=0.7)
    return f". Did you mean {excerpt(folded[close[0]])}?" if close else ""


def _descend(record: Record, path: str, field: str, keys: list[str]) -> Any:
    value = record[field]
    if field.rpartition(".")[2] == "json" and isinstance(value, bytes):
        value = parse_json(record["__key__"], value, f" in {field!r}")
    for depth, key in enumerate(keys):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            where = ".".join([field, *keys[:depth]])
            found = f"the keys {_list(value)}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise MissingField(record["__key__"], f"expected {key!r} of {path!r} in {where!r}, found {found}")
    if value is None:
        raise MissingField(record["__key__"], f"expected a value at {path!r}, found null")
    return value


def parse_json(key: str, raw: bytes, where: str = "") -> Any:
    """Parses JSON in UTF-8, with or without a byte order mark.

    Args:
        key: of the record.
        raw: the JSON.
        where: where it was found, for messages: " in 'json'".

    Raises:
        BadExample: it is longer than `MAX_JSON_BYTES`, it is invalid, or an object has a key twice.
    """
    if len(raw) > MAX_JSON_BYTES:
        raise BadExample(key, f"expected JSON of at most {MAX_JSON_BYTES} bytes{where}, found {len(raw)}")
    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        found = f"the byte {error.object[error.start]:#04x} at {error.start}"
        raise BadExample(key, f"expected UTF-8{where}, found {found}") from error
    except (ValueError, RecursionError) as error:
        raise BadExample(key, f"expected JSON{where}, found {excerpt(raw, 40)}: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {excerpt(twice)} occurs twice")
    return fields


def lookup_text(record: Record, path: str, join: str = ", ") -> str:
    """The text at a path, stripped. A list of texts is joined; bytes must be UTF-8; `MAX_TEXT` limits both.

    Raises:
        MissingField: no such path, or an empty list.
        BadExample: an empty text, no UTF-8, or no text.
    """
    key, value = record["__key__"], lookup(record, path)
    if isinstance(value, bytes):
        try:
            # The decoder keeps back the first bytes of a character that the cut splits.
            value = codecs.getincrementaldecoder("utf-8")().decode(value[:MAX_TEXT], len(value) <= MAX_TEXT)
        except UnicodeDecodeError as error:
            found = f"the byte {error.object[error.start]:#04x} at {error.start}"
            raise BadExample(key, f"expected UTF-8 text in {path!r}, found {found}") from error
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        if not value:
            raise MissingField(key, f"expected at least one text in {path!r}, found an empty list")
        value = join.join(value)
    if not isinstance(value, str):
        raise BadExample(key, f"expected text or a list of texts in {path!r}, found a {type(value).__name__}")
    if not (value := value[:MAX_TEXT].strip()):
        raise BadExample(key, f"expected text in {path!r}, found only white space")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can escape one half of a surrogate pair
        found = f"{value[error.start]!r} at {error.start}"
        raise BadExample(key, f"expected text in {path!r} that UTF-8 can encode, found {found}") from error
    return value


def lookup_words(record: Record, path: str) -> list[str]:
    """The words at a path: a list of strings, or one text split at white space.

    Raises:
        MissingField: no such path.
        BadExample: an empty list or text, or another type.
    """
    key, value = record["__key__"], lookup(record, path)
    if isinstance(value, bytes | str):
        value = lookup_text(record, path).split()
    if not (isinstance(value, list) and value and all(isinstance(word, str) for word in value)):
        raise BadExample(key, f"expected a list of words in {path!r}, found {excerpt(value, 40)}")
    return value


def read_each_path(
    record: Record, field: str | tuple[str, ...], read: Callable[[Record, str], T]
) -> Iterator[T]:
    """Yields `read(record, path)` for each path of `field` that the record has, in order.

    Raises:
        MissingField: the record has none of them.
    """
    first_missing: MissingField | None = None
    num_read = 0
    for path in (field,) if isinstance(field, str) else field:
        try:
            value = read(record, path)
        except MissingField as error:
            first_missing = first_missing or error
            continue
        num_read += 1
        yield value
    if not num_read and first_missing is not None:
        raise first_missing
