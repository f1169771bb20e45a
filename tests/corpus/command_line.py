"""The command line: flags, values, streams, environment."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
