"""Arrays in memory, npz and patches."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
