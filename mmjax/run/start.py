"""Prepares a run's data before anything compiles: finds, opens and compares them, trains tokenizers."""

from pathlib import Path

from mmjax.cluster import processes
from mmjax.experiment import Experiment
from mmjax.run import identity, locations, tokenizers
from mmjax.run.data_checks import check_data
from mmjax.run.folder import RunFolder


def prepare_data(experiment: Experiment, folder: RunFolder, *, accept_data: bool = False) -> Experiment:
    """The experiment with absolute paths and the run's own tokenizers; its data are open and the run's.

    Process 0 records what is not recorded yet, and then every other process compares its own.

    Args:
      accept_data: data that are not the run's are accepted, with a line in the log.

    Raises:
      InputError: data are missing or are not the run's, or a vocabulary has another size or is not the run's.
    """
    with processes.fail_together():
        experiment, relative_to = at_home(experiment, folder)
        for dataset in identity.named_datasets(experiment).values():
            dataset.open()
        if processes.is_process_zero():
            check_data(experiment)
    for first_process in (True, False):
        with processes.fail_together():
            if processes.is_process_zero() == first_process:
                identity.check_and_record(experiment, folder, relative_to, accept=accept_data)
                tokenizers.check_and_save(experiment, folder)
    return experiment


def at_home(experiment: Experiment, folder: RunFolder) -> tuple[Experiment, str]:
    """The experiment with the paths and tokenizers of the run; and the folder that relative paths refer to.

    That is the folder in which the run began, as long as it holds the data; otherwise the present one.

    Raises:
      InputError: the run's data.json or vocabularies.json is damaged.
    """
    relative_to = identity.read(folder).get("folder")
    resolved = locations.resolve_relative(experiment, relative_to)
    if relative_to is None or resolved is experiment:
        relative_to = str(Path.cwd())
    return tokenizers.restore(resolved, folder), relative_to
