"""An experiment from its file or from the text that a run keeps of it."""

import importlib.util
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from mmjax.errors import InputError
from mmjax.experiment import serialize
from mmjax.experiment.overrides import missing_file, override
from mmjax.experiment.validation import validate
from mmjax.experiment.value import Experiment


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a file that defines ``experiment()``, with overrides applied, validated.

    Raises InputError if the file is missing or fails, an override leads nowhere, or the parts do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise missing_file(path)
    spec = importlib.util.spec_from_file_location("mmjax_experiment_" + re.sub(r"\W", "_", path.stem), path)
    if spec is None or spec.loader is None:
        raise InputError(f"expected a Python file that defines experiment(), found {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
        make = vars(module).get("experiment")
        made = make() if callable(make) else None
    except InputError:
        raise
    except (
        Exception,
        SystemExit,
    ) as error:  # the file is the user's: whatever it raises is a fault of the configuration
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
    if not isinstance(made, Experiment):
        raise InputError(f"expected {path} to define experiment() -> Experiment, found {type(made).__name__}")
    for assignment in overrides:
        made = override(made, assignment)
    validate(made)
    return made


def from_text(text: str) -> Experiment:
    """The experiment that ``to_text`` printed. Raises InputError if it uses classes from outside mmjax."""
    made = serialize.from_text(text)
    if not isinstance(made, Experiment):
        raise InputError(f"expected the text of an Experiment, found one of {type(made).__name__}")
    return made
