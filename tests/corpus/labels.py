"""Labels, tags, boxes and several labels."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
