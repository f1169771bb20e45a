"""JSON lines and nested JSON."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
