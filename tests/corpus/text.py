"""Texts: encodings, sizes, scripts."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
