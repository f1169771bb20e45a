"""What this machine, JAX and the launcher say, whether they agree, and what to do where they do not.

`gather` looks; every finding is a pure function of what it saw.
"""

import dataclasses
import importlib.metadata
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from mmjax import __version__
from mmjax.cluster import processes
from mmjax.cluster.launcher import SINGLE, Launch, detect
from mmjax.errors import InputError
from mmjax.train.flops import PEAK_FLOPS

PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "grain", "optax")
START_SECONDS = 60  # a doctor is asked by someone who waits
MIN_SHARED_MEMORY = 2**30  # bytes: NCCL takes tens of MiB a GPU, an input worker a few batches
MIN_BYTES_PER_SECOND = 100e6  # of one reader: 1,000 pictures of 100 kB
SAMPLE_BYTES, SAMPLE_SECONDS = 256 * 2**20, 5.0  # how much of the data is read, at most
log = logging.getLogger(__name__)
# Set by a launcher or for it; nothing else of the environment is shown.
SHOWN = (
    "JAX_",
    "SLURM_",
    "OMPI_COMM_",
    "SKYPILOT_N",
    "TPU_WORKER",
    "TPU_PROCESS",
    "MEGASCALE_",
    "CUDA_VISIBLE",
    "JOB_COMPLETION",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen in one process."""

    host: str = "localhost"
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    variables: dict[str, str] = dataclasses.field(default_factory=dict)  # the launcher's
    launch: Launch = SINGLE
    launch_error: str = ""  # why the variables make no sense, or the processes did not meet
    coordinator_error: str = ""  # why its name does not resolve
    platform: str = "cpu"  # of JAX's devices
    device_kind: str = ""
    num_devices: int = 1
    num_local_devices: int = 1
    process_index: int = 0
    num_processes: int = 1
    num_gpus: int = 0  # NVIDIA GPUs of the machine, whether or not JAX sees them
    shared_memory: int | None = None  # bytes free in /dev/shm; None: there is none
    data: str = ""  # the data folder that was read
    data_bytes_per_second: float | None = None  # of one reader; None: not read


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that does not fit, and what to do."""

    fault: bool  # training will fail or use less than there is; else it may only be slow
    found: str
    remedy: str


def gather(data: Path | None = None) -> Facts:
    """Looks at this process's machine. Joins the other processes if the launcher's variables describe any."""
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(SHOWN)}
    facts = Facts(
        host=socket.gethostname(),
        versions={"mmjax": __version__} | {name: version(name) for name in PACKAGES},
        variables=variables,
        num_gpus=processes.num_gpus(),
        shared_memory=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
        data=str(data or ""),
        data_bytes_per_second=None if data is None else read_speed(data),
    )
    try:
        launch = detect(os.environ, facts.num_gpus)
        facts = dataclasses.replace(facts, launch=launch, coordinator_error=unresolved(launch.coordinator))
        if not facts.coordinator_error:  # else it would wait for nobody
            if launch.num_processes > 1:  # JAX aborts the process where they do not come
                log.info("waiting up to %d s for %d processes at %s", START_SECONDS, launch.num_processes,
                         launch.coordinator)  # fmt: skip
            facts = dataclasses.replace(facts, launch=processes.start(start_seconds=START_SECONDS))
    except InputError as error:
        facts = dataclasses.replace(facts, launch_error=str(error))
    return dataclasses.replace(
        facts,
        platform=jax.default_backend(),
        device_kind=jax.devices()[0].device_kind,
        num_devices=jax.device_count(),
        num_local_devices=jax.local_device_count(),
        process_index=jax.process_index(),
        num_processes=jax.process_count(),
    )


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def unresolved(coordinator: str | None) -> str:
    """Why the coordinator's name leads nowhere; empty if it resolves, or there is none."""
    if coordinator is None:
        return ""
    host, _, port = coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port), proto=socket.IPPROTO_TCP)
    except OSError as error:
        return str(error)
    return ""


def read_speed(folder: Path) -> float:
    """Bytes/s with which one reader gets files of `folder` that are not in memory yet."""
    if not folder.exists():
        raise InputError(f"expected a data folder or file, found nothing at {folder}")
    files = [folder] if folder.is_file() else (path for path in folder.rglob("*") if path.is_file())
    start, num_bytes = time.perf_counter(), 0
    for path in files:
        with path.open("rb", buffering=0) as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while chunk := stream.read(2**20):
                num_bytes += len(chunk)
                if num_bytes >= SAMPLE_BYTES or time.perf_counter() - start > SAMPLE_SECONDS:
                    return num_bytes / (time.perf_counter() - start)
    if not num_bytes:
        raise InputError(f"expected files with data in {folder}, found none")
    return num_bytes / (time.perf_counter() - start)


def findings(facts: Facts) -> list[Finding]:
    """All that does not fit, faults first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return sorted(found, key=lambda finding: not finding.fault)


def launch_is_refused(facts: Facts) -> Iterator[Finding]:
    if facts.launch_error:
        yield Finding(True, facts.launch_error, "`mmjax train` refuses to start until this is mended")


def coordinator_does_not_resolve(facts: Facts) -> Iterator[Finding]:
    if facts.coordinator_error:
        yield Finding(
            True,
            f"the coordinator {facts.launch.coordinator} ({facts.launch.launcher}) does not resolve on "
            f"{facts.host}: {facts.coordinator_error}",
            "give all nodes a name service or /etc/hosts that knows it, or set for all processes "
            "JAX_COORDINATOR_ADDRESS=<address of process 0>:<free port>",
        )


def processes_did_not_join(facts: Facts) -> Iterator[Finding]:
    wanted = facts.launch.num_processes
    if facts.num_processes != wanted and not facts.launch_error and not facts.coordinator_error:
        yield Finding(
            True,
            f"{facts.launch.launcher} started {wanted} processes, and JAX sees {facts.num_processes}",
            "let `mmjax train` start jax.distributed, or start it with the launcher's number of processes",
        )


def cpu_beside_gpus(facts: Facts) -> Iterator[Finding]:
    forced = facts.variables.get("JAX_PLATFORMS", "")
    if facts.num_gpus and facts.platform == "cpu" and "cpu" not in forced.split(","):
        yield Finding(
            True,
            f"{facts.host} has {facts.num_gpus} GPUs, and this jaxlib knows only the CPU",
            "pip install 'jax[cuda12]' (or cuda13, as `nvidia-smi` says of the driver), of the version of "
            f"jax, {facts.versions.get('jax', 'which is installed')}",
        )


def gpus_left_out(facts: Facts) -> Iterator[Finding]:
    """The one GPU that each node is seen to have under Slurm, above all."""
    here = facts.launch.num_local_processes or 1
    if facts.platform != "gpu" or facts.num_local_devices * here >= facts.num_gpus:
        return
    yield Finding(
        True,
        f"{facts.host} has {facts.num_gpus} GPUs; its {here} process{'es' * (here > 1)} use "
        f"{facts.num_local_devices} each ({facts.launch.launcher}, CUDA_VISIBLE_DEVICES="
        f"{facts.variables.get('CUDA_VISIBLE_DEVICES', 'not set')})",
        "start one process a node with all its GPUs (Slurm: --ntasks-per-node=1 --gpus-per-node="
        f"{facts.num_gpus}, and no --gpus-per-task), or one a GPU; unset CUDA_VISIBLE_DEVICES and "
        "JAX_LOCAL_DEVICE_IDS where a profile sets them",
    )


def little_shared_memory(facts: Facts) -> Iterator[Finding]:
    free = facts.shared_memory
    if free is None or free < MIN_SHARED_MEMORY:
        size = "none" if free is None else f"{free / 2**20:.0f} MiB free"
        yield Finding(
            False,
            f"/dev/shm of {facts.host} has {size}: input workers and NCCL need shared memory, and die of a "
            "bus error without",
            "docker run --shm-size=16g, or in Kubernetes an emptyDir of medium Memory mounted on /dev/shm "
            "(experiments/launch/jobset.yaml)",
        )


def slow_data(facts: Facts) -> Iterator[Finding]:
    speed = facts.data_bytes_per_second
    if speed is not None and speed < MIN_BYTES_PER_SECOND:
        yield Finding(
            False,
            f"{facts.data} gives {speed / 1e6:.0f} MB/s to one reader, "
            f"less than {MIN_BYTES_PER_SECOND / 1e6:.0f}",
            "copy the data to a local disk, or pack small files into tar shards or ArrayRecord; "
            "input_wait_share in metrics.jsonl says whether training waits",
        )


def unknown_peak(facts: Facts) -> Iterator[Finding]:
    if facts.platform != "cpu" and facts.device_kind not in PEAK_FLOPS:
        yield Finding(
            False,
            f"the peak FLOP/s of {facts.device_kind!r} is not known, so no MFU is logged",
            "add its data sheet's figure to PEAK_FLOPS in mmjax/train/flops.py",
        )


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    launch_is_refused, coordinator_does_not_resolve, processes_did_not_join, cpu_beside_gpus, gpus_left_out,
    little_shared_memory, slow_data, unknown_peak,
)  # fmt: skip


def report(facts: Facts) -> str:
    """For people."""
    peak = PEAK_FLOPS.get(facts.device_kind)
    speed = facts.data_bytes_per_second
    rows = {
        "host": facts.host,
        "versions": ", ".join(f"{name} {number}" for name, number in facts.versions.items()),
        "launcher": facts.launch.launcher
        + (f", {facts.launch.num_processes} processes" if facts.launch.num_processes > 1 else "")
        + (f", coordinator {facts.launch.coordinator}" if facts.launch.coordinator else ""),
        "process": f"{facts.process_index} of {facts.num_processes}",
        "devices": f"{facts.num_local_devices} here, {facts.num_devices} in all: "
        f"{facts.platform}, {facts.device_kind}",
        "peak": "not known" if peak is None else f"{peak / 1e12:.0f} TFLOP/s a device (dense bf16)",
        "/dev/shm": "none" if facts.shared_memory is None else f"{facts.shared_memory / 2**30:.1f} GiB free",
    }
    if speed is not None:
        rows["data"] = f"{facts.data}: {speed / 1e6:.0f} MB/s"
    lines = [f"{name:<10}{value}" for name, value in rows.items()]
    lines += [f"          {name}={value}" for name, value in facts.variables.items()]
    for finding in findings(facts):
        lines += ["", f"{'FAULT' if finding.fault else 'note'}: {finding.found}", f"  -> {finding.remedy}"]
    return "\n".join(lines if findings(facts) else [*lines, "", "nothing to mend"])


def to_json(facts: Facts) -> str:
    """One line, for programs."""
    found = [dataclasses.asdict(finding) for finding in findings(facts)]
    peak = PEAK_FLOPS.get(facts.device_kind)
    return json.dumps(dataclasses.asdict(facts) | {"peak_flops": peak, "findings": found})
