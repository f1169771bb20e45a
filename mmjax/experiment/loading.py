"""An experiment from a Python file, or from the experiment.txt of a run."""

import importlib.util
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from mmjax.errors import InputError, refuse_missing_file
from mmjax.experiment import serialize
from mmjax.experiment.overrides import override
from mmjax.experiment.validation import validate
from mmjax.experiment.value import Experiment


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that a file's `experiment()` returns, with overrides applied, validated.

    Args:
      overrides: "path.to.field=value" each, applied in order.

    Raises:
      InputError: the file is missing or fails, an override names no field or an ill-typed value, or the
        parts of the experiment do not fit together.
    """
    path = Path(path)
    refuse_missing_file(path)
    spec = importlib.util.spec_from_file_location("mmjax_experiment_" + re.sub(r"\W", "_", path.stem), path)
    if spec is None or spec.loader is None:
        raise InputError(f"expected a Python file that defines experiment(), found {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle find a class by its module's name
    try:
        spec.loader.exec_module(module)
        make = vars(module).get("experiment")
        experiment = make() if callable(make) else None
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the file is the user's: any exception is an input error
        line = next(
            (
                f.lineno
                for f in reversed(traceback.extract_tb(error.__traceback__))
                if f.filename == str(path)
            ),
            None,
        )
        where = f"{path}, line {line}" if line else str(path)
        raise InputError(
            f"{where}: {type(error).__name__}: {error}. Run with --debug for the traceback"
        ) from error
    if not isinstance(experiment, Experiment):
        raise InputError(
            f"expected {path} to define experiment() -> Experiment, found {type(experiment).__name__}"
        )
    for assignment in overrides:
        experiment = override(experiment, assignment)
    validate(experiment)
    return experiment


def from_text(text: str) -> Experiment:
    """The experiment that `to_text` printed.

    Raises:
      InputError: the text is damaged, or names classes that are not mmjax's.
    """
    value = serialize.from_text(text)
    if not isinstance(value, Experiment):
        raise InputError(f"expected the text of an Experiment, found one of {type(value).__name__}")
    return value
