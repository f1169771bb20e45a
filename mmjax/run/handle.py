"""A trained run as one object: its numbers, its model on new inputs, its evaluations on new data."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax import data, evals, sharding, training
from mmjax.batch import Batch
from mmjax.checkpoint.manager import Checkpoints
from mmjax.errors import InputError
from mmjax.experiment import Experiment, from_text, override, to_text
from mmjax.heads import AttentionPooledEmbedding, PooledEmbedding
from mmjax.run import files, identity, loop, tokenizers
from mmjax.run.evaluation import Results, with_limits
from mmjax.run.export import flatten, save_parameters
from mmjax.run.folder import RunFolder
from mmjax.run.raw_inputs import embedding_head, input_transform, raw_batches
from mmjax.run.session import Session
from mmjax.run.start import at_home
from mmjax.views import Identity, View

log = logging.getLogger(__name__)


class Rows(list):
    """A table: a list with a dict for each row."""

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`.

        Raises:
          InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InputError("expected pandas to be installed: pip install pandas") from error
        return pandas.DataFrame(list(self))


class Run:
    """A run at its newest checkpoint, on one device. Made by `mmjax.train` and `mmjax.open_run`.

    session: the experiment's model on one device. state: the checkpoint's parameters and step.
    """

    def __init__(
        self, folder: RunFolder, experiment: Experiment, session: Session, state: training.TrainState
    ):
        self.folder, self.experiment, self.session, self.state = folder, experiment, session, state
        self._predictor = session.predictor(state)
        self._vocabularies_are_checked = False

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r}, step={self.step})"

    @property
    def step(self) -> int:
        """The checkpoint's step."""
        return int(self.state.step)

    @property
    def results(self) -> Results:
        """The newest recorded result of each evaluation: {eval: {metric: value}}."""
        newest_steps = {row["eval"]: row["step"] for row in self.folder.evals()}
        recorded = {name: self.folder.recorded(step, name) for name, step in newest_steps.items()}
        return {name: metrics for name, metrics in recorded.items() if metrics is not None}

    def metrics(self) -> Rows:
        """The rows of metrics.jsonl: one for each logged step, oldest first."""
        return Rows(self.folder.metrics())

    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters by readable name, such as "encoders.image.positions.table"."""
        return {name: np.asarray(value) for name, value in sorted(flatten(self.state.params))}

    def save(self, file: str | Path, *, overwrite: bool = False) -> None:
        """Writes the parameters to `file`, which ends in .safetensors.

        Raises:
          InputError: another ending, a file that exists while `overwrite` is off or that cannot be written.
        """
        save_parameters(self.parameters(), file, self.step, overwrite=overwrite)

    def evaluate(
        self, evaluation: str | evals.Eval, data: data.Dataset | str | Path | None = None, **fields: Any
    ) -> dict[str, float]:
        """Measures an evaluation with this checkpoint: {metric: value}. Nothing is recorded in the folder.

        Args:
          evaluation: the name of one of the experiment's, or any evaluation.
          data: a dataset, or the path of data in the same layout; None: the evaluation's own data.
          fields: other fields of the evaluation, such as `limit=100`.

        Raises:
          InputError: no such evaluation, field or head; the data do not fit or hold nothing to measure.
        """
        self._check_vocabularies()
        return evals.measure(self._evaluation(evaluation, data, fields), self._predictor).metrics

    def _check_vocabularies(self) -> None:
        """Raises InputError if a vocabulary, trained anew on changed data, would give words other ids."""
        if not self._vocabularies_are_checked:
            tokenizers.check_and_save(self.experiment, self.folder)
            self._vocabularies_are_checked = True

    def _evaluation(
        self, evaluation: str | evals.Eval, dataset: data.Dataset | str | Path | None, fields: dict[str, Any]
    ) -> evals.Eval:
        if isinstance(evaluation, str):
            known = self.experiment.evals
            if evaluation not in known:
                raise InputError(f"expected an evaluation among {sorted(known)}, found {evaluation!r}")
            evaluation = known[evaluation]
        if isinstance(dataset, str | Path):
            dataset = data.with_path(evaluation.data, str(dataset))
        if dataset is not None:
            fields = fields | {"data": dataset}
        valid = [field.name for field in dataclasses.fields(evaluation)]
        if unknown := sorted(set(fields) - set(valid)):
            raise InputError(f"{type(evaluation).__name__} expects fields among {valid}, found {unknown}")
        evaluation = dataclasses.replace(evaluation, **fields)
        refuse_missing_heads(self.experiment, type(evaluation).__name__, evaluation)
        return with_limits(self.experiment, evaluation)

    def predict(
        self, batch: Batch, heads: Sequence[str] | None = None, view: View | None = None, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Predictions for a batch: {head: array "B ..."}. Compiled once for each choice of heads.

        Args:
          batch: {stream: value}, such as `next(data.epoch(dataset, 8))`.
          heads: None: all heads.
          view: changes the batch first; None: the batch as it is.
          seed: for the random choices of the view.

        Raises:
          InputError: the model has no such head, or the batch lacks a stream.
        """
        names = self.experiment.model.head_names()
        heads = names if heads is None else tuple(heads)
        if unknown := sorted(set(heads) - set(names)):
            raise InputError(f"expected heads among {list(names)}, found {unknown}")
        return self._predictor(batch, Identity() if view is None else view, tuple(heads), seed)[0]

    def embed(
        self, *, head: str | None = None, batch_size: int = 64, **inputs: Sequence[Any]
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Embeddings of raw inputs, decoded as the experiment's data are, without augmentation.

            run.embed(image=["a.png", "b.jpg"])                       "2 E"
            run.embed(text=["a dog", "a cat", "rain"])                "3 E"
            run.embed(image=[...], audio=[...])                       {"image": "N E", "audio": "M E"}
            run.embed(head="joint", image=["a.png"], text=["a dog"])  "1 E"

        Args:
          head: the embedding head; by default each stream's own, after its encoder. With a head, all lists
            have one entry for each example, and None in a list is a missing modality.
          batch_size: examples in a compiled call; the last batch is padded.
          inputs: by stream: texts; paths, bytes or uint8 arrays "height width channel" of images; paths,
            bytes or arrays "samples" of audio at the experiment's sample rate.

        Returns:
          One array "N E"; a dict of them by stream where several streams and no head are given.

        Raises:
          InputError: an unknown stream or head, or an input that cannot be decoded (its position is named).
        """
        if not inputs:
            raise InputError("expected inputs by stream, such as embed(image=[...]), found none")
        for stream, values in inputs.items():
            if isinstance(values, str | bytes | Path):
                raise InputError(f"{stream} expects a list of inputs, found one {type(values).__name__}")
            if head is None and any(value is None for value in values):
                raise InputError(f"{stream} expects inputs, found None: set head=... for missing ones")
        if head is not None:
            if len({len(values) for values in inputs.values()}) > 1:
                lengths = {stream: len(values) for stream, values in inputs.items()}
                raise InputError(f"head={head!r} expects one entry for each example, found {lengths}")
            return self._embed(inputs, head, batch_size)
        embeddings = {
            stream: self._embed({stream: values}, embedding_head(self.experiment, stream), batch_size)
            for stream, values in inputs.items()
        }
        return embeddings if len(embeddings) > 1 else next(iter(embeddings.values()))

    def _embed(self, inputs: Mapping[str, Sequence[Any]], head: str, batch_size: int) -> np.ndarray:
        model = self.experiment.model
        module = model.heads.get(head)
        if not isinstance(module, AttentionPooledEmbedding | PooledEmbedding):
            known = [
                name
                for name, each in model.heads.items()
                if isinstance(each, AttentionPooledEmbedding | PooledEmbedding)
            ]
            raise InputError(f"expected an embedding head among {known}, found {head!r}")
        transforms = {
            stream: input_transform(self.experiment, stream) for stream in model.streams_for((head,))
        }
        if unknown := sorted(set(inputs) - set(transforms)):
            raise InputError(f"the head {head!r} reads {sorted(transforms)}, found inputs for {unknown}")
        if any(isinstance(transforms[stream], data.TextTransform) for stream in inputs):
            self._check_vocabularies()
        chunks = [np.zeros((0, module.dim), np.float32)]
        for batch, num_rows in raw_batches(transforms, inputs, batch_size):
            chunks.append(self.predict(batch, (head,))[head][:num_rows])
        return np.concatenate(chunks)


def train_run(experiment: Experiment, run_dir: str | Path, **options: Any) -> Run:
    """Trains an experiment in a folder, or resumes it, and opens the run. Exported as `mmjax.train`.

    Args:
      options: those of `mmjax.run.loop.run`, such as `devices`.

    Raises:
      InputError: configuration, data or folder do not fit together.
      NonFiniteError: a loss or gradient became NaN or infinite.
      Interrupted: a signal asked to stop. The state is saved; the same call resumes.
    """
    loop.run(experiment, run_dir, **options)
    return open_run(run_dir, experiment)


def open_run(run_dir: str | Path, experiment: Experiment | None = None) -> Run:
    """The run in a folder, at its newest undamaged checkpoint, on one device even if it was trained on many.

    Args:
      experiment: needed only if the run's experiment.txt names classes that are not mmjax's.

    Raises:
      InputError: the folder is no run, has no checkpoint yet, or belongs to another experiment.
    """
    folder = RunFolder(run_dir)
    experiment, _ = at_home(experiment_of(folder, experiment), folder)
    on_one_device = dataclasses.replace(experiment, mesh=sharding.MeshShape(), rules=sharding.REPLICATED)
    session = Session.of(on_one_device, jax.local_devices()[:1])
    state = None
    if folder.checkpoints.is_dir():
        with contextlib.closing(Checkpoints(folder.checkpoints, read_only=True)) as checkpoints:
            state = checkpoints.restore(session.abstract)
    if state is None:
        raise InputError(
            f"expected a checkpoint in {run_dir}, found none yet: train until the first is saved"
        )
    return Run(folder, experiment, session, state)


def experiment_of(folder: RunFolder, experiment: Experiment | None = None) -> Experiment:
    """The experiment of a run, from its text; or `experiment`, if it is the run's.

    Raises:
      InputError: the text is damaged or names classes that are not mmjax's, or `experiment` differs from
        it in a field that may not change on resume.
    """
    if experiment is not None:
        files.refuse_another_experiment(folder.path, to_text(experiment), experiment.optimizer)
        return experiment
    try:
        return from_text(folder.text)
    except InputError as error:
        raise InputError(f"{folder.path / files.EXPERIMENT}: {error}") from error


def evaluate_run(
    run_dir: str | Path,
    path: str | None = None,
    overrides: Sequence[str] = (),
    experiment: Experiment | None = None,
) -> Results:
    """All evaluations of a run's experiment at its newest checkpoint: {eval: {metric: value}}.

    Results are recorded in the run's folder unless `path` or `overrides` make them other evaluations.

    Args:
      path: data in the same layout, read instead of the evaluations' own data.
      overrides: of the experiment's `evals`, such as "evals.retrieval.limit=100".

    Raises:
      InputError: no such run, an override of another field, or data that do not fit.
    """
    run = open_run(run_dir, experiment)
    with run.folder as folder:
        changed, results = run.experiment, {}
        for assignment in overrides:
            if not assignment.startswith("evals."):
                raise InputError(
                    f"expected overrides of evaluations, such as evals.NAME.limit=100, found {assignment!r}: "
                    "the other fields belong to the trained model"
                )
            changed = override(changed, assignment)
        for name, evaluation in changed.evals.items():
            measured = without_missing_training_data(name, evaluation)
            results[name] = run.evaluate(measured, path)
            is_the_runs = path is None and not overrides and measured is evaluation
            if (
                is_the_runs
                and folder.recorded(run.step, name) is None
                and not warn_of_changed_data(run, name)
            ):
                try:
                    folder.write_eval(run.step, name, results[name])
                except OSError as error:  # a run in a read-only folder can be evaluated too
                    log.warning("the result is not recorded in %s: %s", run_dir, error)
    return results


def without_missing_training_data(name: str, evaluation: evals.Eval) -> evals.Eval:
    """The evaluation without its baselines from training data, if these are gone."""
    train = getattr(evaluation, "train", None)
    if train is None:
        return evaluation
    try:
        train.open()
    except InputError as error:
        log.warning("evaluation %s: the baselines from training data are left out: %s", name, error)
        return dataclasses.replace(evaluation, **{"train": None})
    return evaluation


def warn_of_changed_data(run: Run, name: str) -> bool:
    """Whether the data of an evaluation are not those that the run recorded. Logs the differences."""
    lines = identity.changed_data(run.experiment, run.folder, name)
    if lines:
        listed = "; ".join(lines[:5])
        log.warning("the data of evaluation %s have changed, so its result is not recorded: %s", name, listed)
    return bool(lines)


def refuse_missing_heads(experiment: Experiment, name: str, evaluation: evals.Eval) -> None:
    """Raises InputError if an evaluation reads heads that the model lacks."""
    names = experiment.model.head_names()
    if not set(evaluation.required_heads()) <= set(names):
        raise InputError(
            f"{name} reads the heads {sorted(evaluation.required_heads())}, but the model has {list(names)}"
        )
