"""Asynchronous Orbax checkpoints with sha256 checksums; restores the newest undamaged step.

A step holds `state` (any pytree of arrays), `about` (JSON: step, data position, the experiment's text) and
`sha256.json`, which is written before Orbax commits the step by renaming its folder. Orbax alone restores
flipped bits as wrong values without an error.
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
from mmjax.checkpoint.checksums import UNFINISHED
from mmjax.checkpoint.paths import plain_path
from mmjax.checkpoint.readback import Expected, find_fault
from mmjax.checkpoint.retention import RetentionPolicy
from mmjax.cluster import processes
from mmjax.errors import InputError

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of one run. `save` is asynchronous: call `wait` or `close` before the process ends."""

    folder: Path
    retention: Callable[[Iterable[int]], set[int]] = RetentionPolicy()  # {all steps} -> {steps to keep}
    experiment: str = ""  # the experiment's text, saved beside the state
    read_only: bool = False  # restores only; creates and deletes nothing
    _last_step: int | None = dataclasses.field(default=None, init=False, repr=False)  # last saved or restored
    _expected: Expected | None = dataclasses.field(default=None, init=False, repr=False)  # being saved

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).resolve()
        if self.read_only:  # not Orbax's `read_only`, with which it logs a warning each time
            options = ocp.CheckpointManagerOptions(create=False, enable_async_checkpointing=False)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(
                preservation_policy=_PreservationPolicy(self.retention, self.folder),
                cleanup_tmp_directories=True,  # the remains of interrupted saves
                async_options=ocp.AsyncOptions(post_finalization_callback=self._finish_step),
            )
        handlers = {"state": ocp.StandardCheckpointHandler(), "about": ocp.JsonCheckpointHandler()}
        with contextlib.ExitStack() as on_failure, jax.transfer_guard("allow"):
            self._path = on_failure.enter_context(plain_path(self.folder))
            self._manager = ocp.CheckpointManager(self._path, options=options, item_handlers=handlers)
            self._close_path = on_failure.pop_all().close

    def steps(self) -> list[int]:
        """The committed steps, oldest first, damaged ones included."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any) -> bool:
        """Starts saving `state`; returns False if `step` was saved or restored last.

        Deletes existing checkpoints at or after `step` first, which a rollback left behind: Orbax would
        silently save nothing.
        """
        if step == self._last_step:
            return False
        with self._explaining_write_errors():  # possibly of the previous save, which is asynchronous
            self._save(step, state)
        self._last_step = step
        return True

    def _save(self, step: int, state: Any) -> None:
        self._manager.wait_until_finished()  # Orbax would too, and the save before it is checked by then
        for stale in [s for s in self.steps() if s >= step]:
            log.warning("deleting checkpoint %d: training resumes from an earlier step", stale)
            self._delete(stale)
        about = {"step": step, "data_position": step, "experiment": self.experiment}
        arrays = _array_fields(state)
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about))
        with jax.transfer_guard("allow"):  # the training loop disallows transfers, but this one is intended
            self._expected = Expected.of(step, arrays)
            saved = self._manager.save(step, args=items, force=True)
        if not saved:
            raise RuntimeError(
                f"expected Orbax to save step {step}, but it declined; committed steps: {self.steps()}"
            )

    def _delete(self, step: int) -> None:
        path = self.folder / str(step)
        if not path.is_symlink():
            self._manager.delete(step)
            return
        if jax.process_index() == 0:  # the files that the link names may be another step's
            path.unlink()
        processes.broadcast_from_process_zero(lambda: None)  # the others wait for it
        self._manager.reload()

    def restore(self, abstract: Any, step: int | None = None, *, max_step: int | None = None) -> Any | None:
        """Restores `step`, or the newest undamaged step; None if there is no checkpoint.

        Args:
          abstract: the state's pytree with a ShapeDtypeStruct, sharding included, for each array.
          max_step: ignores newer steps.

        Raises:
          InputError: `step` is damaged or missing, all checkpoints are damaged, or the state does not fit.
        """
        return self._restore_undamaged(step, lambda s: self._read(s, abstract), max_step)

    def restore_arrays(self, step: int | None = None) -> dict[str, Any] | None:
        """As `restore`, without an abstract state: nested dicts of NumPy arrays, saved on any mesh."""
        return self._restore_undamaged(step, self._read_arrays)

    def wait(self) -> None:
        """Waits until everything saved is on disk. Raises InputError if it could not be written."""
        with self._explaining_write_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does, and stops Orbax's threads."""
        try:
            with self._explaining_write_errors():
                self._manager.close()
        finally:
            self._close_path()

    @contextlib.contextmanager
    def _explaining_write_errors(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:  # another process died during the save
            raise
        except InputError:  # what was written does not open as what was saved
            self._last_step = None
            raise
        except Exception as error:  # a full or broken disk: Orbax and TensorStore raise many types
            self._last_step = None
            reason = f"{type(error).__name__}: {str(error).strip()}".replace(
                str(self._path), str(self.folder)
            )
            raise InputError(
                f"expected to save in {self.folder}, found that it cannot be written: {reason[-400:]}. "
                "Earlier checkpoints are intact: free disk space, then run the same command to resume"
            ) from error

    def _restore_undamaged(
        self, step: int | None, read: Callable[[int], Any], max_step: int | None = None
    ) -> Any | None:
        steps = processes.broadcast_from_process_zero(self.steps)
        steps = [s for s in steps if max_step is None or s <= max_step]
        if step is not None and step not in steps:
            raise InputError(
                f"expected a checkpoint of step {step} in {self.folder}, found {steps or 'none'}"
            )
        faults = []
        for candidate in reversed(steps) if step is None else [step]:
            path = self._path / str(candidate)
            # Process 0 verifies the files for all: every process reads the same disk.
            fault = processes.broadcast_from_process_zero(
                lambda path=path, step=candidate: checksums.find_fault(path) or find_fault(path, step)
            )
            if fault is None:
                restored = self._read_undamaged(candidate, read)
                self._last_step = candidate  # saving this step again would first delete it
                return restored
            faults.append(f"step {candidate}: {fault}")
            fallback = "; trying the next older one" if step is None else ""
            log.warning("checkpoint %d is damaged (%s)%s", candidate, fault, fallback)
        if faults:
            raise InputError(
                f"expected an undamaged checkpoint in {self.folder}, found {'; '.join(faults)}. "
                "Restore the files from a copy, or delete the damaged checkpoints"
            )
        return None

    def _read_undamaged(self, step: int, read: Callable[[int], Any]) -> Any:
        try:
            with jax.transfer_guard("allow"):
                return read(step)
        except InputError:
            raise
        except Exception as error:  # Orbax raises many types for files that it cannot read
            # The checksums are correct, so an older checkpoint would not fit the state either.
            raise InputError(
                f"checkpoint {step} in {self.folder} is undamaged, but does not fit the experiment: "
                f"{type(error).__name__}: {str(error)[:500]}"
            ) from error

    def _read(self, step: int, abstract: Any) -> Any:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_array_fields(abstract)))
        state = self._manager.restore(step, args=args).state
        if dataclasses.is_dataclass(abstract) and not isinstance(abstract, type):
            state = dataclasses.replace(abstract, **state)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if isinstance(
                leaf, jax.ShapeDtypeStruct
            ):  # where a key is missing, Orbax leaves it without an error
                raise InputError(
                    f"checkpoint {step} has no value for {jax.tree_util.keystr(path)}: expected an array"
                )
        return state

    def _read_arrays(self, step: int) -> dict[str, Any]:
        shapes = self._manager.item_metadata(step).state
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=device), shapes)
        return jax.tree.map(np.asarray, self._read(step, abstract))

    def _finish_step(self) -> None:
        """Checks what was written, and writes its checksums, before Orbax commits the step.

        Called in Orbax's thread, when a step's files are complete and its folder is not yet renamed. An
        InputError ends the save before older checkpoints are deleted.

        Raises:
          InputError: the files do not open as what was saved.
        """
        if jax.process_index() != 0:
            return
        expected = self._expected
        if expected is None:
            raise RuntimeError("expected a save in progress, found none")
        # Not the committed steps: checksums that are written now would hide damage.
        for folder in self._path.glob(f"{expected.step}{UNFINISHED}*"):
            if fault := find_fault(folder, expected.step, expected):
                raise InputError(
                    f"expected to save step {expected.step} in {self.folder}, found that what was written "
                    f"does not read back: {fault}. Earlier checkpoints are intact: check the disk, then run "
                    "the same command to resume"
                )
            checksums.write_checksums(folder)


def _array_fields(state: Any) -> Any:
    """A dataclass as a dict of its fields with arrays: those without may come and go with versions."""
    if not dataclasses.is_dataclass(state) or isinstance(state, type):
        return state
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in values.items() if jax.tree.leaves(value)}


@dataclasses.dataclass(frozen=True)
class _PreservationPolicy:
    """Adapts a function of steps to Orbax's PreservationPolicy protocol."""

    retention: Callable[[Iterable[int]], set[int]]
    folder: Path

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        # A user's link to another folder neither counts nor is deleted: its files are not this run's.
        links = {info.step for info in checkpoints if (self.folder / str(info.step)).is_symlink()}
        kept = links | self.retention([info.step for info in checkpoints if info.step not in links])
        return [info.step in kept for info in checkpoints]
