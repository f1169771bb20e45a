"""Which streams the records of a dataset have, by a sample of them."""

import dataclasses
import logging
import time

import numpy as np

from mmjax.data.dataset import Dataset, Examples
from mmjax.data.records import BadExample
from mmjax.errors import InputError

NUM_SAMPLED = 256
SAMPLE_SECONDS = 1.0  # the sample ends earlier on slow data
SEARCH_SECONDS = 10.0  # a search among all records ends then, without a verdict

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Presence:
    """The number of sampled records that have each stream. The records are not decoded.

    missing: {stream: what the first record without it lacks}.
    """

    num_records: int
    num_sampled: int
    counts: dict[str, int]
    missing: dict[str, str]


def sample_presence(dataset: Dataset) -> Presence:
    """Looks at up to NUM_SAMPLED records, evenly spaced. Raises InputError if the data cannot be opened."""
    examples, start = dataset.open(), time.monotonic()
    counts, missing, num_sampled = dict.fromkeys(dataset.streams, 0), {}, 0
    indices = np.unique(np.linspace(0, max(len(examples) - 1, 0), NUM_SAMPLED, dtype=np.int64))
    # In random order, so that a sample which ends early is evenly spaced too.
    for index in np.random.default_rng(0).permutation(indices[: len(examples)]).tolist():
        if num_sampled and time.monotonic() - start > SAMPLE_SECONDS:
            break
        num_sampled += 1
        absent = _absent(examples, index)
        missing = absent | missing
        for stream in counts.keys() - absent.keys():
            counts[stream] += 1
    return Presence(len(examples), num_sampled, counts, missing)


def refuse_absent_streams(dataset: Dataset, name: str) -> Presence:
    """Returns the sample. Raises InputError if there is no record, or if a stream occurs in none of them.

    Args:
      name: what the data are, for the message: "dataset 'train'".
    """
    presence = sample_presence(dataset)
    if not presence.num_records:
        raise InputError(f"expected examples in {name}, found none. Correct its path or remove it.")
    suspects = {stream for stream, count in presence.counts.items() if not count}
    if suspects and presence.num_sampled < presence.num_records:
        suspects = _search(dataset.open(), suspects, name)
    for stream in sorted(suspects):
        reason = presence.missing[stream]
        raise InputError(
            f"no record of {name} has the stream {stream!r}: {reason}{'' if reason.endswith('?') else '.'} "
            "Correct the field, or remove the stream"
        )
    return presence


def may_have_together(dataset: Dataset, streams: tuple[str, ...]) -> bool:
    """Whether some record has all of the streams; also True if that is not known after SEARCH_SECONDS."""
    if not dataset.streams.keys() >= {*streams}:
        return False
    examples, start = dataset.open(), time.monotonic()
    for index in range(len(examples)):
        if time.monotonic() - start > SEARCH_SECONDS or not _absent(examples, index).keys() & {*streams}:
            return True
    return False


def _search(examples: Examples, suspects: set[str], name: str) -> set[str]:
    """The suspected streams that no record has. Ends when each was found, or after SEARCH_SECONDS."""
    start = time.monotonic()
    for index in range(len(examples)):
        if not suspects:
            break
        if time.monotonic() - start > SEARCH_SECONDS:
            _LOG.warning(
                "none of the first %d of %d records of %s has the streams %s: are their fields right?",
                index, len(examples), name, sorted(suspects),
            )  # fmt: skip
            return set()
        suspects = suspects & _absent(examples, index).keys()
    return suspects


def _absent(examples: Examples, index: int) -> dict[str, str]:
    """{stream that the record lacks: reason}. A record that cannot be read is bad, and lacks none."""
    try:
        return examples.missing_streams(index)
    except BadExample:
        return {}
