"""Several processes as one: starting jax.distributed, deciding together, and leaving together.

The processes run the same program and meet in collectives. What one finds out alone (a full disk, a signal, a
folder that is refused) must reach the others before the next meeting, or they would wait for it: `fail_together`,
`broadcast_from_first` and `StopVote` carry it. A process that can go on no longer leaves at once (`leave`), and the others
end, at the latest when it has been silent for HEARTBEAT_SECONDS; the launcher starts them all again.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.cluster.launcher import Launch, detect
from mmjax.errors import InputError, SharedRefusal

START_SECONDS = 300  # how long a process waits for the others to start
HEARTBEAT_SECONDS = 30  # a process that is silent for so long is taken for dead, and ends the others
LEAVE_SECONDS = 1  # by which process 0 lets the others go first
MESSAGE_BYTES = 1000  # of a refusal that is told to the other processes

T = TypeVar("T")
log = logging.getLogger(__name__)


def start(*, start_seconds: int = START_SECONDS) -> Launch:
    """Joins the processes that the launcher started with this one; does nothing for a single process.

    Call it before anything touches a device. Where jax.distributed already runs (Ray Train, a notebook) it is
    left as it is.

    Raises:
      InputError: the variables are half set or contradict each other, or the others cannot be met.
    """
    if jax.distributed.is_initialized():
        return Launch("jax.distributed, already running", jax.process_count(), jax.process_index())
    launch = detect(os.environ, num_gpus=num_gpus())
    if launch.num_processes > 1:
        _initialize(launch, start_seconds)
    elif asks_metadata():
        return _ask_metadata(launch)
    return launch


def _initialize(launch: Launch, start_seconds: int) -> None:
    if launch.process_id:
        _reach(launch, start_seconds)
    # Its handler of SIGTERM would take the place of ours, which knows SIGINT too.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            launch.coordinator,
            launch.num_processes,
            launch.process_id,
            launch.local_device_ids,
            cluster_detection_method="deactivate",  # JAX would take one GPU a process under Slurm
            initialization_timeout=start_seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            coordinator_bind_address=launch.coordinator if launch.on_one_machine else None,
        )
    except RuntimeError as error:
        raise InputError(_not_met(launch, str(error).splitlines()[0][:300])) from error


def _reach(launch: Launch, seconds: float) -> None:
    """Waits for process 0 to listen: JAX itself would abort with a stack trace if it never does."""
    host, _, port = str(launch.coordinator).rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(_not_met(launch, f"{error}, for {seconds:.0f} seconds")) from error
        time.sleep(0.2)


def _not_met(launch: Launch, reason: str) -> str:
    return (
        f"expected to meet {launch.num_processes} processes at {launch.coordinator} ({launch.launcher}), "
        f"found that process {launch.process_id} cannot: {reason}. See that all run and reach that address; "
        "`mmjax doctor`, started in the same way, says more"
    )


def _ask_metadata(launch: Launch) -> Launch:
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (ValueError, OSError) as error:  # not a Google VM, or one that belongs to no pod
        log.info("no pod is known for this machine's TPUs, so they are used alone: %s", error)
        return launch
    return Launch("Cloud TPU", jax.process_count(), jax.process_index())


def num_gpus() -> int:
    """NVIDIA GPUs of this machine (or container), counted without starting JAX's backend."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def asks_metadata() -> bool:
    """Whether this is a Google Cloud TPU VM whose pod only the metadata server knows."""
    wanted = os.environ.get("JAX_PLATFORMS", "tpu").split(",")
    told = any(name in os.environ for name in ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES"))
    return "tpu" in wanted and not told and any(Path("/dev").glob("accel[0-9]*"))


def describe(launch: Launch) -> str:
    """One line for the log: which process this is, and what it holds."""
    return (
        f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()} "
        f"({launch.launcher}), {jax.local_device_count()} of {jax.device_count()} devices"
        + (f", coordinator {launch.coordinator}" if launch.coordinator else "")
    )


def is_first() -> bool:
    """This is the process that writes files and speaks to the user."""
    return jax.process_index() == 0


def _several() -> bool:
    # In this order: counting starts the backend, which a lone experiment's file may still configure.
    return jax.distributed.is_initialized() and jax.process_count() > 1


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """Every process runs the block for itself; where one of them is refused, all are.

    The block must not contain collectives.

    Raises:
      SharedRefusal: in every process, for an InputError or OSError in any; with its own message, or that of
        the first process that was refused.
    """
    if not _several():
        yield
        return
    refusal: Exception | None = None
    try:
        yield
    except Exception as error:
        refusal = error
    said = np.zeros(MESSAGE_BYTES, np.uint8)
    if refusal is not None:
        text = (str(refusal) or type(refusal).__name__).encode()[:MESSAGE_BYTES]
        said[: len(text)] = np.frombuffer(text, np.uint8)
    everyone = multihost_utils.process_allgather(said)
    if isinstance(refusal, InputError | OSError):
        raise SharedRefusal(str(refusal)) from refusal
    if refusal is not None:
        raise refusal
    for process, message in enumerate(everyone):
        if message.any():
            text = message.tobytes().rstrip(bytes(1)).decode(errors="replace")
            raise SharedRefusal(f"process {process} was refused: {text}")


def broadcast_from_first(function: Callable[[], T]) -> T:
    """What `function` returns in process 0, a JSON value, in every process; what it raises too."""
    if not _several():
        return function()
    text = b""
    with fail_together():
        if is_first():
            text = json.dumps(function()).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(2 ** max(size - 1, 1).bit_length(), np.uint8)  # few shapes: each is compiled
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(padded)[:size].tobytes())


def total(*numbers: int) -> list[int]:
    """Each number, summed over the processes."""
    if not _several():
        return list(numbers)
    return multihost_utils.process_allgather(np.asarray(numbers, np.int32)).sum(axis=0).tolist()


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in one process at least. Waits for all of them."""
    return total(int(flag))[0] > 0


class StopVote:
    """Whether some process asks to stop: known to all at the same step; no device waits for the answer."""

    def __init__(self) -> None:
        self._asked: jax.Array | None = None

    def __call__(self, flag: bool) -> bool:
        """What was asked at the call before; with one process, what is asked now."""
        if not _several():
            return flag
        asked, self._asked = self._asked, _gather(flag)
        return asked is not None and bool(np.asarray(asked).any())


def _gather(flag: bool) -> jax.Array:
    """One entry a device, whole in every process. Returns before it is there."""
    mesh = Mesh(np.asarray(jax.devices()), ("device",))
    mine = np.full(jax.local_device_count(), flag)
    flags = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("device")), mine)
    return jax.device_put(flags, NamedSharding(mesh, PartitionSpec()))


def leave(code: int, words: str = "") -> None:
    """Ends this process at once if it is one of several: the others may be waiting in a collective for it.

    For what the others do not know of: SharedRefusal, NonFiniteError and Interrupted are raised in all. An
    orderly end would itself wait for the others, and then abort. Process 0 goes last: with it goes the
    coordinator, and whoever is still there aborts.
    """
    if not _several():
        return
    sys.stderr.write(words)
    if is_first():
        time.sleep(LEAVE_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
