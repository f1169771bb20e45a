"""Experiments: texts, overrides, types and ranges of fields."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
