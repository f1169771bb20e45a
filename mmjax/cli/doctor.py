"""Checks the machine, JAX and the launcher, and suggests remedies: `mmjax doctor`.

`collect_info` reads the machine. Each check is a pure function of that information.
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
from mmjax.cli.tables import align_columns
from mmjax.cluster import processes
from mmjax.cluster.launcher import SINGLE_PROCESS, Launch, detect_launch
from mmjax.errors import InputError
from mmjax.training.flops import PEAK_FLOPS

PACKAGES = ("jax", "jaxlib", "flax", "orbax-checkpoint", "grain", "optax")
START_TIMEOUT_SECONDS = 60  # shorter than that of training, because a user waits for the report
MIN_SHARED_MEMORY = 2**30  # bytes: NCCL uses tens of MiB per GPU, an input worker a few batches
MIN_BYTES_PER_SECOND = 100e6  # of one reader: 1,000 images of 100 kB
MAX_SAMPLE_BYTES, MAX_SAMPLE_SECONDS = 256 * 2**20, 5.0  # of the data that `measure_read_speed` reads
log = logging.getLogger(__name__)
# The variables of launchers. The rest of the environment is private, and not printed.
VARIABLE_PREFIXES = (
    "JAX_", "SLURM_", "OMPI_COMM_", "SKYPILOT_N", "TPU_WORKER", "TPU_PROCESS", "MEGASCALE_", "CUDA_VISIBLE",
    "JOB_COMPLETION",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemInfo:
    """The machine, JAX and the launcher as one process sees them, with the keys of `--json`."""

    host: str = "localhost"
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    variables: dict[str, str] = dataclasses.field(default_factory=dict)  # of the launcher
    launch: Launch = SINGLE_PROCESS
    launch_error: str = ""  # why the variables are invalid, or why the processes could not connect
    coordinator_error: str = ""  # why the coordinator's name does not resolve
    platform: str = "cpu"  # of JAX's devices
    device_kind: str = ""
    num_devices: int = 1
    num_local_devices: int = 1
    process_index: int = 0
    num_processes: int = 1
    num_gpus: int = 0  # NVIDIA GPUs of the machine, including those that JAX does not use
    shared_memory: int | None = None  # free bytes in /dev/shm; None: it does not exist
    data: str = ""  # the data folder that was read
    data_bytes_per_second: float | None = None  # of one reader; None: not measured


@dataclasses.dataclass(frozen=True)
class Finding:
    """A problem and its remedy, with the keys of `--json`."""

    fault: bool  # training will fail or leave devices unused; False: it may only be slow
    found: str
    remedy: str


def collect_info(data: Path | None = None) -> SystemInfo:
    """Reads the machine; connects to the other processes, if the launcher's variables describe any."""
    variables = {
        name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLE_PREFIXES)
    }
    info = SystemInfo(
        host=socket.gethostname(),
        versions={"mmjax": __version__} | {name: _installed_version(name) for name in PACKAGES},
        variables=variables,
        num_gpus=processes.count_gpus(),
        shared_memory=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
        data=str(data or ""),
        data_bytes_per_second=None if data is None else measure_read_speed(data),
    )
    try:
        launch = detect_launch(os.environ, info.num_gpus)
        coordinator_error = resolution_error(launch.coordinator)
        info = dataclasses.replace(info, launch=launch, coordinator_error=coordinator_error)
        if not coordinator_error:
            if launch.num_processes > 1:
                # JAX aborts this process if the others do not connect. Then only this line explains why.
                arguments = (START_TIMEOUT_SECONDS, launch.num_processes, launch.coordinator)
                log.info("waiting up to %d s for %d processes at %s", *arguments)
            launch = processes.initialize(timeout_seconds=START_TIMEOUT_SECONDS)
            info = dataclasses.replace(info, launch=launch)
    except InputError as error:
        info = dataclasses.replace(info, launch_error=str(error))
    return dataclasses.replace(
        info,
        platform=jax.default_backend(),
        device_kind=jax.devices()[0].device_kind,
        num_devices=jax.device_count(),
        num_local_devices=jax.local_device_count(),
        process_index=jax.process_index(),
        num_processes=jax.process_count(),
    )


def _installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def resolution_error(coordinator: str | None) -> str:
    """Why the host of "host:port" does not resolve; empty if it does, or if there is no coordinator."""
    if coordinator is None:
        return ""
    host, _, port = coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port), proto=socket.IPPROTO_TCP)
    except OSError as error:
        return str(error)
    return ""


def measure_read_speed(folder: Path) -> float:
    """Bytes per second at which one reader reads files of `folder` that are not in the page cache."""
    if not folder.exists():
        raise InputError(f"expected a data folder or file, found nothing at {folder}")
    files = [folder] if folder.is_file() else (path for path in folder.rglob("*") if path.is_file())
    start, num_bytes = time.perf_counter(), 0
    for path in files:
        with path.open("rb", buffering=0) as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while chunk := stream.read(2**20):
                num_bytes += len(chunk)
                if num_bytes >= MAX_SAMPLE_BYTES or time.perf_counter() - start > MAX_SAMPLE_SECONDS:
                    return num_bytes / (time.perf_counter() - start)
    if not num_bytes:
        raise InputError(f"expected files with data in {folder}, found none")
    return num_bytes / (time.perf_counter() - start)


def diagnose(info: SystemInfo) -> list[Finding]:
    """The findings of all checks, faults first."""
    findings = [finding for check in CHECKS for finding in check(info)]
    return sorted(findings, key=lambda finding: not finding.fault)


def _check_launch(info: SystemInfo) -> Iterator[Finding]:
    if info.launch_error:
        yield Finding(True, info.launch_error, "`mmjax train` fails to start until this is corrected")


def _check_coordinator(info: SystemInfo) -> Iterator[Finding]:
    if info.coordinator_error:
        yield Finding(
            True,
            f"the coordinator {info.launch.coordinator} ({info.launch.launcher}) does not resolve on "
            f"{info.host}: {info.coordinator_error}",
            "make the name resolve on all nodes (DNS or /etc/hosts), or set for all processes "
            "JAX_COORDINATOR_ADDRESS=<address of process 0>:<free port>",
        )


def _check_processes(info: SystemInfo) -> Iterator[Finding]:
    expected = info.launch.num_processes
    if info.num_processes != expected and not info.launch_error and not info.coordinator_error:
        yield Finding(
            True,
            f"{info.launch.launcher} started {expected} processes, and JAX sees {info.num_processes}",
            "let `mmjax train` start jax.distributed, or start it with the launcher's number of processes",
        )


def _check_jaxlib(info: SystemInfo) -> Iterator[Finding]:
    platforms = info.variables.get("JAX_PLATFORMS", "")
    if info.num_gpus and info.platform == "cpu" and "cpu" not in platforms.split(","):
        yield Finding(
            True,
            f"{info.host} has {info.num_gpus} GPUs, and the installed jaxlib supports only CPUs",
            "pip install 'jax[cuda12]' (or cuda13, depending on the driver that `nvidia-smi` shows), of the "
            f"installed version of jax, {info.versions.get('jax', 'which `pip show jax` prints')}",
        )


def _check_gpus(info: SystemInfo) -> Iterator[Finding]:
    # Under Slurm, JAX often sees only one GPU of each node.
    num_local = info.launch.num_local_processes or 1
    if info.platform != "gpu" or info.num_local_devices * num_local >= info.num_gpus:
        return
    yield Finding(
        True,
        f"{info.host} has {info.num_gpus} GPUs, found {num_local} process(es) with "
        f"{info.num_local_devices} GPU(s) each ({info.launch.launcher}, CUDA_VISIBLE_DEVICES="
        f"{info.variables.get('CUDA_VISIBLE_DEVICES', 'not set')})",
        "start one process per node with all its GPUs (Slurm: --ntasks-per-node=1 --gpus-per-node="
        f"{info.num_gpus}, and no --gpus-per-task), or one per GPU; unset CUDA_VISIBLE_DEVICES and "
        "JAX_LOCAL_DEVICE_IDS if a shell profile sets them",
    )


def _check_shared_memory(info: SystemInfo) -> Iterator[Finding]:
    free = info.shared_memory
    if free is None or free < MIN_SHARED_MEMORY:
        size = "none" if free is None else f"{free / 2**20:.0f} MiB free"
        yield Finding(
            False,
            f"/dev/shm of {info.host} has {size}: without enough shared memory, input workers and NCCL fail "
            "with a bus error",
            "docker run --shm-size=16g, or in Kubernetes an emptyDir of medium Memory mounted on /dev/shm "
            "(experiments/launch/jobset.yaml)",
        )


def _check_data_speed(info: SystemInfo) -> Iterator[Finding]:
    speed = info.data_bytes_per_second
    if speed is not None and speed < MIN_BYTES_PER_SECOND:
        yield Finding(
            False,
            f"one reader gets {speed / 1e6:.0f} MB/s from {info.data}, "
            f"less than {MIN_BYTES_PER_SECOND / 1e6:.0f}",
            "copy the data to a local disk, or pack small files into tar shards or ArrayRecord; "
            "input_wait_share in metrics.jsonl shows whether training waits",
        )


def _check_peak_flops(info: SystemInfo) -> Iterator[Finding]:
    if info.platform != "cpu" and info.device_kind not in PEAK_FLOPS:
        yield Finding(
            False,
            f"the peak FLOP/s of {info.device_kind!r} is unknown, so no MFU is logged",
            "add the value from its data sheet to PEAK_FLOPS in mmjax/training/flops.py",
        )


CHECKS: tuple[Callable[[SystemInfo], Iterator[Finding]], ...] = (
    _check_launch, _check_coordinator, _check_processes, _check_jaxlib, _check_gpus, _check_shared_memory,
    _check_data_speed, _check_peak_flops,
)  # fmt: skip


def format_report(info: SystemInfo) -> str:
    """The information and the findings as text for the terminal."""
    peak = PEAK_FLOPS.get(info.device_kind)
    launch, speed = info.launch, info.data_bytes_per_second
    rows = {
        "host": info.host,
        "versions": ", ".join(f"{name} {number}" for name, number in info.versions.items()),
        "launcher": launch.launcher
        + (f", {launch.num_processes} processes" if launch.num_processes > 1 else "")
        + (f", coordinator {launch.coordinator}" if launch.coordinator else ""),
        "process": f"{info.process_index} of {info.num_processes}",
        "devices": f"{info.num_local_devices} local, {info.num_devices} in total: "
        f"{info.platform}, {info.device_kind}",
        "peak": "unknown" if peak is None else f"{peak / 1e12:.0f} TFLOP/s per device (dense bf16)",
        "/dev/shm": "none" if info.shared_memory is None else f"{info.shared_memory / 2**30:.1f} GiB free",
    }
    if speed is not None:
        rows["data"] = f"{info.data}: {speed / 1e6:.0f} MB/s"
    variables = [("", f"{name}={value}") for name, value in info.variables.items()]
    lines = align_columns([*rows.items(), *variables], left=(0, 1))
    findings = diagnose(info)
    for finding in findings:
        lines += ["", f"{'FAULT' if finding.fault else 'note'}: {finding.found}", f"  -> {finding.remedy}"]
    return "\n".join(lines if findings else [*lines, "", "no problems found"])


def to_json(info: SystemInfo) -> str:
    """The information and the findings as one line of JSON."""
    findings = [dataclasses.asdict(finding) for finding in diagnose(info)]
    peak = PEAK_FLOPS.get(info.device_kind)
    return json.dumps(dataclasses.asdict(info) | {"peak_flops": peak, "findings": findings})
