"""Audio: files, arrays, rates, channels, ranges."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
