"""Bad, odd and hostile inputs, and what mmjax promises for each; `python tests/corpus/table.py` counts them."""

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
    run_folders,
    tables,
    tar_indexes,
    tars,
    text,
    tfds,
    tokenizers,
)
CASES = tuple(case for module in MODULES for case in module.CASES)
