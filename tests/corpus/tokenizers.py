"""Tokenizers and vocabularies, trained and read from folders."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
