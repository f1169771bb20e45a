"""Checkpoints: asynchronous Orbax, with checksums of our own and a walk back to the newest whole step.

A step holds ``state`` (any pytree of arrays), ``about`` (JSON: step, data position, the experiment's text)
and ``sha256.json``, written before Orbax commits the step by renaming its folder: Orbax alone restores
flipped bytes as wrong values without an error.

Order on resume: the experiment's text, the mesh, the abstract state with shardings, ``restore``, then the
data from the state's step.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mmjax.checkpoint import checksums
from mmjax.checkpoint.checksums import SEAL
from mmjax.checkpoint.retention import Retention
from mmjax.cluster import processes
from mmjax.errors import InputError

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of one run. ``save`` returns while files are being written: ``wait`` or ``close``."""

    folder: Path
    keep: Callable[[Iterable[int]], set[int]] = Retention()  # of all steps, those that stay
    experiment: str = ""  # the experiment's text, saved beside the state
    read_only: bool = False  # look and restore; create and delete nothing
    _saved: int | None = dataclasses.field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).resolve()  # Orbax wants absolute paths
        if self.read_only:
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            options = ocp.CheckpointManagerOptions(
                preservation_policy=_Preserve(self.keep),
                cleanup_tmp_directories=True,  # what a killed save left
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            )
        handlers = {"state": ocp.StandardCheckpointHandler(), "about": ocp.JsonCheckpointHandler()}
        with jax.transfer_guard("allow"):
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """Every committed step, oldest first, whether or not it verifies."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest committed step, or None before the first."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: Any, *, force: bool = False) -> bool:
        """Starts saving ``state``; False if ``step`` is the one saved last and ``force`` is off.

        Steps at or after ``step`` that a walk back left behind are deleted first: Orbax would silently save
        nothing.
        """
        if not force and step == self._saved:
            return False
        with self._failing():  # perhaps of the save before
            self._save(step, state)
        self._saved = step
        return True

    def _save(self, step: int, state: Any) -> None:
        for stale in [s for s in self.steps() if s >= step]:
            self._manager.wait_until_finished()
            log.warning("deleting checkpoint %d: training goes on from before it", stale)
            self._manager.delete(stale)
        about = {"step": step, "data_position": step, "experiment": self.experiment}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_filled(state)), about=ocp.args.JsonSave(about)
        )
        with jax.transfer_guard("allow"):  # the training loop forbids implicit transfers; this one is meant
            saved = self._manager.save(step, args=items, force=True)
        if not saved:
            raise RuntimeError(
                f"expected Orbax to save step {step}, but it declined; committed steps: {self.steps()}"
            )

    def restore(self, abstract: Any, step: int | None = None, *, at_most: int | None = None) -> Any | None:
        """The state of ``step``, or of the newest step that is whole; None when there is no checkpoint.

        ``abstract``: the state's pytree with ShapeDtypeStructs that carry shardings.
        ``at_most``: only this step and older ones are looked at.
        Raises InputError if the step asked for does not verify, or if checkpoints exist and none does.
        """
        return self._walk(step, lambda s: self._read(s, abstract), at_most)

    def restore_arrays(self, step: int | None = None) -> dict[str, Any] | None:
        """As ``restore``, without an abstract state: nested dicts of NumPy arrays, from any mesh."""
        return self._walk(step, self._read_arrays)

    def about(self, step: int) -> dict[str, Any]:
        """What was written beside the state: step, data_position, experiment."""
        return self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about

    def wait(self) -> None:
        """Returns once everything saved is on disk. Raises InputError if it could not be saved."""
        with self._failing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as ``wait`` does, and stops Orbax's threads."""
        with self._failing():
            self._manager.close()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:  # another process has died while all were saving
            raise
        except Exception as error:  # a full or broken disk: Orbax and TensorStore raise many kinds
            self._saved = None
            reason = f"{type(error).__name__}: {str(error).strip()}"
            raise InputError(
                f"expected to save in {self.folder}, found that it cannot be written: {reason[-400:]}. "
                "Earlier checkpoints are kept: make room, and the same command goes on"
            ) from error

    def _walk(self, step: int | None, read: Any, at_most: int | None = None) -> Any | None:
        steps = [s for s in processes.broadcast_from_first(self.steps) if at_most is None or s <= at_most]
        if step is not None and step not in steps:
            raise InputError(
                f"expected a checkpoint of step {step} in {self.folder}, found {steps or 'none'}"
            )
        faults = []
        for candidate in reversed(steps) if step is None else [step]:
            # One process reads it all: the others would wait for the same disk.
            fault = processes.broadcast_from_first(
                lambda step=candidate: checksums.fault(self.folder / str(step))
            )
            if fault is None:
                try:
                    with jax.transfer_guard("allow"):
                        restored = read(candidate)
                    self._saved = candidate  # saving it again would first delete it
                    return restored
                except InputError:
                    raise
                except Exception as error:  # Orbax raises many kinds for files that it cannot read
                    # A whole file that does not fit the state is no damage: going back is no help.
                    raise InputError(
                        f"checkpoint {candidate} in {self.folder} is whole, but does not fit the experiment: "
                        f"{type(error).__name__}: {str(error)[:500]}"
                    ) from error
            faults.append(f"step {candidate}: {fault}")
            log.warning(
                "checkpoint %d is damaged (%s)%s", candidate, fault, "; going back" if step is None else ""
            )
        if faults:
            raise InputError(
                f"expected a checkpoint that verifies in {self.folder}, found {'; '.join(faults)}. "
                "Put a good copy there, or delete the damaged ones"
            )
        return None

    def _read(self, step: int, abstract: Any) -> Any:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_filled(abstract)))
        state = self._manager.restore(step, args=args).state
        if dataclasses.is_dataclass(abstract) and not isinstance(abstract, type):
            state = dataclasses.replace(abstract, **state)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if isinstance(
                leaf, jax.ShapeDtypeStruct
            ):  # Orbax leaves these where a key is missing, without an error
                raise InputError(
                    f"checkpoint {step} has no value for {jax.tree_util.keystr(path)}: expected an array"
                )
        return state

    def _read_arrays(self, step: int) -> dict[str, Any]:
        shapes = self._manager.item_metadata(step).state
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here), shapes)
        return jax.tree.map(np.asarray, self._read(step, abstract))

    def _seal(self) -> None:
        """Runs in Orbax's thread, when a step's files are complete and its folder is not yet renamed."""
        if jax.process_index() != 0:
            return
        for folder in self.folder.iterdir():
            # A step that has its name already, and no seal, was damaged: vouching for it now would hide that.
            named = folder.name.isdecimal()
            if not named and (folder / "state").is_dir() and not (folder / SEAL).exists():
                checksums.seal(folder)


def _filled(state: Any) -> Any:
    """A dataclass as the dict of its fields that hold arrays: others come and go with versions."""
    if not dataclasses.is_dataclass(state) or isinstance(state, type):
        return state
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in values.items() if jax.tree.leaves(value)}


@dataclasses.dataclass(frozen=True)
class _Preserve:
    """Orbax's protocol for a function of steps."""

    keep: Callable[[Iterable[int]], set[int]]

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        kept = self.keep([info.step for info in checkpoints])
        return [info.step in kept for info in checkpoints]
