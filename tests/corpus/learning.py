"""Training that would learn from nothing, or from the wrong thing."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
