"""Images and video."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
