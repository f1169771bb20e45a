"""WebDataset shards and their indexes."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
