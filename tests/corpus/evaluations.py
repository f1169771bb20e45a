"""Evaluations: data that they cannot use, numbers that they must get right."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
