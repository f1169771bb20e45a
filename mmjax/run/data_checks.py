"""Refusals of data from which an experiment would learn nothing, or the wrong thing, before it compiles."""

import logging

from mmjax import data, evals
from mmjax.data import Dataset, Presence, TextTransform, Vocabulary
from mmjax.errors import InputError, one_line
from mmjax.experiment import Experiment
from mmjax.objectives.ctc import blank_fault
from mmjax.views import View

log = logging.getLogger(__name__)


def check_data(experiment: Experiment) -> None:
    """Opens all data, reads a sample of each, and logs the share of its records that has each stream.

    Raises:
      InputError: a dataset has no record, or a stream that occurs in no record; objectives compare records
        and there is only one, or streams that no record has together; or token ids in views and objectives
        are not those of the tokenizers.
    """
    seen: list[Dataset] = []
    for name, dataset in described_datasets(experiment).items():
        if dataset not in seen:
            log.info("%s", _shares(name, data.refuse_absent_streams(dataset, name)))
            seen.append(dataset)
    _compare_sizes(experiment)
    _refuse_absent_pairs(experiment)
    _refuse_foreign_ids(experiment)


def describe_records(experiment: Experiment) -> list[str]:
    """For each dataset a line with its number of records, and the share of a sample that has each stream."""
    lines = []
    for name, dataset in described_datasets(experiment).items():
        try:
            found = data.sample_presence(dataset)
        except (InputError, OSError) as error:  # describing needs no data
            lines.append(f"{name}: cannot be read: {one_line(str(error))}")
            continue
        lines.append(_shares(name, found))
        lines += [f"  {s} in none: {found.missing[s]}" for s, count in found.counts.items() if not count]
    return lines


def _shares(name: str, found: Presence) -> str:
    shares = (f"{stream} {share(count, found.num_sampled)}" for stream, count in found.counts.items())
    return f"{name}: {found.num_records:,} records; {found.num_sampled} looked at: {', '.join(shares)}"


def share(count: int, total: int) -> str:
    """A share as a percentage; only all of them are 100 %, and only none of them are 0 %."""
    rounded = round(100 * count / max(total, 1))
    return f"{rounded if count in (0, total) else min(max(rounded, 1), 99)} %"


def described_datasets(experiment: Experiment) -> dict[str, Dataset]:
    """{words for messages: dataset} of the training data and the data of evaluations."""
    named = {f"the dataset {name!r}": dataset for name, (_, dataset) in experiment.data.datasets.items()}
    return named | {f"the data of eval {name!r}": each.data for name, each in experiment.evals.items()}


def _compare_sizes(experiment: Experiment) -> None:
    """Refuses a single record where records are compared; tells of batches with more rows than records."""
    total = sum(len(dataset.open()) for _, dataset in experiment.data.datasets.values())
    if total < experiment.data.batch_size:
        log.warning(
            "data.batch_size=%d is more than the %d records: each batch repeats some, and rows of one record "
            "are no negatives of each other", experiment.data.batch_size, total,
        )  # fmt: skip
    for name, objective in experiment.objectives.items():
        if total < 2 and objective.needs_other_rows():
            raise InputError(
                f"objective {name!r} compares records: expected at least 2 of them, found {total}"
            )


def _refuse_absent_pairs(experiment: Experiment) -> None:
    """Refuses an objective that compares streams which no record has together."""
    datasets = [dataset for _, dataset in experiment.data.datasets.values()]
    for name, objective in experiment.objectives.items():
        streams = objective.paired_streams()
        if {*streams} & {*objective.view.changed_streams()}:
            continue  # the view may make them
        if streams and not any(data.may_have_together(dataset, streams) for dataset in datasets):
            raise InputError(
                f"objective {name!r} reads the streams {list(streams)} of one example, and no record of the "
                "data has all of them: correct the keys of the records, or remove the objective"
            )


def _refuse_foreign_ids(experiment: Experiment) -> None:
    """Refuses ids in views, objectives and evaluations that are not those of the text's tokenizer."""
    for _, dataset in experiment.data.datasets.values():
        vocabularies = open_vocabularies(dataset)
        for name, objective in experiment.objectives.items():
            if fault := objective.check_vocabularies(vocabularies):
                raise InputError(f"objective {name!r}: {fault}")
    for name, evaluation in experiment.evals.items():
        vocabularies = open_vocabularies(evaluation.data)
        faults = [
            v.check_vocabularies(vocabularies) for v in vars(evaluation).values() if isinstance(v, View)
        ]
        if isinstance(evaluation, evals.Transcripts) and evaluation.stream in vocabularies:
            faults.append(
                blank_fault(evaluation.blank_id, evaluation.stream, vocabularies[evaluation.stream])
            )
        for fault in filter(None, faults):
            raise InputError(f"eval {name!r}: {fault}")


def open_vocabularies(dataset: Dataset) -> dict[str, Vocabulary]:
    """{stream: the opened vocabulary of its text}."""
    return {
        stream: transform.tokenizer.open()
        for stream, transform in dataset.streams.items()
        if isinstance(transform, TextTransform)
    }
