"""Starts jax.distributed, and shares errors, stop requests and values between the processes of a run.

All processes run the same program and meet in collectives. A condition of one process alone (a full disk, a
signal, a bad folder) must reach the others before their next collective, which would otherwise wait forever.
`fail_together`, `broadcast_from_process_zero` and `SharedStopFlag` share such conditions. A process that
cannot continue exits at once (`exit_immediately`); the others fail in their pending collective, or after
HEARTBEAT_TIMEOUT_SECONDS without its heartbeat. The launcher then restarts all of them.
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

from mmjax.cluster.launcher import Launch, detect_launch
from mmjax.errors import InputError, SharedInputError

START_TIMEOUT_SECONDS = 300  # for all processes to connect
HEARTBEAT_TIMEOUT_SECONDS = 30  # without a heartbeat from a process, after which the others exit
EXIT_DELAY_SECONDS = 1  # process 0 exits this much later than the others
MAX_MESSAGE_BYTES = 1000  # of an error message sent to the other processes

T = TypeVar("T")
log = logging.getLogger(__name__)


def initialize(*, timeout_seconds: int = START_TIMEOUT_SECONDS) -> Launch:
    """Connects the processes that the launcher started; does nothing for a single process.

    Call it before JAX initialises its devices. Does nothing where jax.distributed already runs (Ray Train, a
    notebook).

    Raises:
      InputError: the launcher's variables are incomplete or contradictory, or the processes cannot connect.
    """
    if jax.distributed.is_initialized():
        return Launch("jax.distributed, already running", jax.process_count(), jax.process_index())
    launch = detect_launch(os.environ, num_gpus=count_gpus())
    if launch.num_processes > 1:
        _initialize_jax(launch, timeout_seconds)
    elif needs_metadata_server():
        return _initialize_tpu_pod(launch)
    return launch


def _initialize_jax(launch: Launch, timeout_seconds: int) -> None:
    if launch.process_id:
        _wait_for_coordinator(launch, timeout_seconds)
    # JAX's handler of SIGTERM would replace that of mmjax, which also handles SIGINT.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            launch.coordinator,
            launch.num_processes,
            launch.process_id,
            launch.local_device_ids,
            cluster_detection_method="deactivate",  # under Slurm, JAX would give each process a single GPU
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
            coordinator_bind_address=launch.coordinator if launch.is_on_one_machine else None,
        )
    except RuntimeError as error:
        raise InputError(_connection_message(launch, str(error).splitlines()[0][:300])) from error


def _wait_for_coordinator(launch: Launch, timeout_seconds: float) -> None:
    """Waits until process 0 listens. Without this, JAX would abort with a stack trace if it never does."""
    host, _, port = str(launch.coordinator).rpartition(":")
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                reason = f"{error}, for {timeout_seconds:.0f} seconds"
                raise InputError(_connection_message(launch, reason)) from error
        time.sleep(0.2)


def _connection_message(launch: Launch, reason: str) -> str:
    return (
        f"expected {launch.num_processes} processes to connect to {launch.coordinator} ({launch.launcher}), "
        f"found that process {launch.process_id} cannot: {reason}. Check that all processes run and reach "
        "that address; `mmjax doctor`, started in the same way, reports details"
    )


def _initialize_tpu_pod(launch: Launch) -> Launch:
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS)
    except (ValueError, OSError) as error:  # not a Google VM, or not part of a pod
        log.info("found no pod for this machine's TPUs, so this process uses them alone: %s", error)
        return launch
    return Launch("Cloud TPU", jax.process_count(), jax.process_index())


def count_gpus() -> int:
    """The number of NVIDIA GPUs of this machine or container, counted without starting JAX's backend."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def needs_metadata_server() -> bool:
    """Whether this Cloud TPU VM must ask Google's metadata server for its pod, having no variables for it."""
    platforms = os.environ.get("JAX_PLATFORMS", "tpu").split(",")
    has_variables = any(name in os.environ for name in ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES"))
    return "tpu" in platforms and not has_variables and any(Path("/dev").glob("accel[0-9]*"))


def describe(launch: Launch) -> str:
    """One line for the log: the process's number, host, launcher, devices and coordinator."""
    return (
        f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()} "
        f"({launch.launcher}), {jax.local_device_count()} of {jax.device_count()} devices"
        + (f", coordinator {launch.coordinator}" if launch.coordinator else "")
    )


def is_process_zero() -> bool:
    """Whether this is process 0, the only one that writes files and prints results."""
    return jax.process_index() == 0


def _has_other_processes() -> bool:
    # process_count starts the backend, which the experiment's file of a single process may still configure.
    return jax.distributed.is_initialized() and jax.process_count() > 1


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """If the block raises InputError or OSError in any process, raises SharedInputError in every process.

    Each process runs the block, which must not contain collectives. A process without an error raises the
    message of the first process that has one.
    """
    if not _has_other_processes():
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    message = np.zeros(MAX_MESSAGE_BYTES, np.uint8)
    if error is not None:
        text = (str(error) or type(error).__name__).encode()[:MAX_MESSAGE_BYTES]
        message[: len(text)] = np.frombuffer(text, np.uint8)
    messages = multihost_utils.process_allgather(message)
    if isinstance(error, InputError | OSError):
        raise SharedInputError(str(error)) from error
    if error is not None:
        raise error
    for process, message in enumerate(messages):
        if message.any():
            text = message.tobytes().rstrip(bytes(1)).decode(errors="replace")
            raise SharedInputError(f"process {process} failed: {text}")


def broadcast_from_process_zero(function: Callable[[], T]) -> T:
    """Calls `function` in process 0 only; every process returns its JSON value, or raises its InputError."""
    if not _has_other_processes():
        return function()
    text = b""
    with fail_together():
        if is_process_zero():
            text = json.dumps(function()).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    # A power of two: the broadcast is compiled once per shape.
    padded = np.zeros(2 ** max(size - 1, 1).bit_length(), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(padded)[:size].tobytes())


def sum_over_processes(*numbers: int) -> list[int]:
    """The sum of each number over the processes."""
    if not _has_other_processes():
        return list(numbers)
    return multihost_utils.process_allgather(np.asarray(numbers, np.int32)).sum(axis=0).tolist()


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in at least one process. Waits for all processes."""
    return sum_over_processes(int(flag))[0] > 0


class SharedStopFlag:
    """Whether any process has requested a stop: the same answer in all processes, one call late.

    Each call starts an all-gather of the flag and returns the result of the previous one, so no device waits.
    """

    def __init__(self) -> None:
        self._flags: jax.Array | None = None

    def __call__(self, flag: bool) -> bool:
        """Whether `flag` was set in any process at the previous call; with one process, `flag` itself."""
        if not _has_other_processes():
            return flag
        flags, self._flags = self._flags, _all_gather(flag)
        return flags is not None and bool(np.asarray(flags).any())


def _all_gather(flag: bool) -> jax.Array:
    """bool "devices", replicated: each device's flag is that of its process. Asynchronous."""
    mesh = Mesh(np.asarray(jax.devices()), ("device",))
    local_flags = np.full(jax.local_device_count(), flag)
    sharded = NamedSharding(mesh, PartitionSpec("device"))
    flags = jax.make_array_from_process_local_data(sharded, local_flags)
    return jax.device_put(flags, NamedSharding(mesh, PartitionSpec()))


def exit_immediately(code: int, message: str = "") -> None:
    """Ends this process if it is one of several, because the others may wait for it in a collective.

    For errors that the other processes do not raise too (as they do SharedInputError, NonFiniteError and
    Interrupted). A normal exit would wait for the other processes and then abort. Process 0 exits last: it
    runs the coordinator, without which the remaining processes abort.
    """
    if not _has_other_processes():
        return
    sys.stderr.write(message)
    if is_process_zero():
        time.sleep(EXIT_DELAY_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
