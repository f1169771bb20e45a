"""Bad, odd and hostile inputs, each with what mmjax promises for it. `python tests/corpus/table.py` counts them."""

from corpus import (
    arrays,
    audio,
    command_line,
    evaluations,
    experiments,
    images,
    labels,
    learning,
    run_folders,
    tables,
    tars,
    text,
    tfds,
    tokenizers,
)

MODULES = (
    arrays,
    audio,
    command_line,
    evaluations,
    experiments,
    images,
    labels,
    learning,
    run_folders,
    tables,
    tars,
    text,
    tfds,
    tokenizers,
)
CASES = tuple(case for module in MODULES for case in module.CASES)
