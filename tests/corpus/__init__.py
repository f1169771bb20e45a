"""Bad, odd and hostile inputs, each with what mmjax promises; `python tests/corpus/table.py` counts them."""

from corpus import (
    arrays,
    audio,
    command_line,
    data_paths,
    evaluations,
    experiments,
    images,
    labels,
    learning,
    resuming,
    run_folders,
    tables,
    tar_indexes,
    tars,
    text,
    tfds,
    tokenizers,
)

MODULES = (
    arrays,
    audio,
    command_line,
    data_paths,
    evaluations,
    experiments,
    images,
    labels,
    learning,
    resuming,
    run_folders,
    tables,
    tar_indexes,
    tars,
    text,
    tfds,
    tokenizers,
)
CASES = tuple(case for module in MODULES for case in module.CASES)
