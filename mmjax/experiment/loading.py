"""An experiment from a Python file, or from the experiment.txt of a run."""

import contextlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmjax.errors import InputError, one_line, refuse_missing_file
from mmjax.experiment import reading
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
        with _neighbours(path.resolve().parent):
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
            f"{where}: {type(error).__name__}: {one_line(str(error))}. Run with --debug for the traceback"
        ) from error
    if not isinstance(experiment, Experiment):
        raise InputError(
            f"expected {path} to define experiment() -> Experiment, found {type(experiment).__name__}"
        )
    for assignment in overrides:
        experiment = override(experiment, assignment)
    validate(experiment)
    return experiment


_imported: set[str] = set()  # neighbours of the experiment that was loaded last


@contextlib.contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Lets an experiment import the modules beside it, as `python experiment.py` would.

    They stay imported, since values and pickle need them, until another experiment is loaded: its neighbours
    may have the same names.
    """
    for name in _imported:
        sys.modules.pop(name, None)
    _imported.clear()
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        _imported.update(name for name in set(sys.modules) - before if _is_beside(name, folder))


def _is_beside(name: str, folder: Path) -> bool:
    """Whether a module, or the package that it belongs to, lies in `folder`, and is not mmjax's."""
    package = name.partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is None or package == "mmjax":
        return False
    is_package = Path(file).name == "__init__.py"
    return Path(file).resolve().parents[1 if is_package else 0] == folder


def from_text(text: str) -> Experiment:
    """The experiment that `to_text` printed.

    Raises:
      InputError: the text is damaged, or names classes that are not mmjax's.
    """
    return reading.from_text(text, Experiment)
