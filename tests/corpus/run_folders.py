"""Run folders: damaged, foreign and oddly named ones."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
