"""TensorFlow Datasets and ArrayRecord files."""

from corpus.case import Case

CASES: tuple[Case, ...] = ()
