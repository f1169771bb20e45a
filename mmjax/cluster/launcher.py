"""Reads from environment variables which launcher started this process, its id and the number of processes.

A pure function of the variables, so that tests need no launcher. `mmjax.cluster.processes` uses it.
"""

import dataclasses
import re
from collections.abc import Mapping

from mmjax.errors import InputError

ADDRESS, NUM_PROCESSES, PROCESS_ID = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
JAX_VARIABLES = (ADDRESS, NUM_PROCESSES, PROCESS_ID)
LOOPBACK = ("127.", "localhost", "[::1]")
# Above the range of ephemeral ports of Linux. JAX uses the same range.
FIRST_PORT, NUM_PORTS = 61440, 4096
SKYPILOT_PORT, TPU_PORT = 8476, 8482
FIRST_BATCH_STEP = 4294967290  # Slurm numbers the steps of batch scripts and interactive shells from here on


@dataclasses.dataclass(frozen=True)
class Launch:
    """One of the processes that a launcher started together."""

    launcher: str  # its name, for messages
    num_processes: int = 1
    process_id: int = 0
    coordinator: str | None = None  # "host:port" of process 0; None only for a single process
    num_local_processes: int | None = None  # on this machine; None: unknown
    local_process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None  # GPUs of this process; None: all visible ones

    @property
    def is_on_one_machine(self) -> bool:
        """Whether all processes reach the coordinator over the loopback interface."""
        return self.coordinator is not None and self.coordinator.startswith(LOOPBACK)


SINGLE_PROCESS = Launch("a single process")


def detect_launch(variables: Mapping[str, str], num_gpus: int = 0) -> Launch:
    """Returns the launch that the environment `variables` describe, on a machine with `num_gpus` GPUs.

    JAX's own variables have priority, then Open MPI, Slurm, SkyPilot and Cloud TPU pods. Open MPI precedes
    Slurm because under Slurm its processes also have the Slurm variables of its daemons. The launch files
    for Kubernetes and Ray set JAX's variables.

    Raises:
      InputError: the variables are incomplete, malformed or contradictory.
    """
    launch = _open_mpi(variables) or _slurm(variables) or _skypilot(variables) or _tpu_pod(variables)
    launch = _jax_variables(variables, launch) or launch
    if launch is None or launch.num_processes == 1:
        return SINGLE_PROCESS if launch is None else dataclasses.replace(launch, coordinator=None)
    if not 0 <= launch.process_id < launch.num_processes:
        raise InputError(
            f"expected a process id from 0 to {launch.num_processes - 1}, found {launch.process_id} "
            f"({launch.launcher}): processes are numbered from 0"
        )
    return dataclasses.replace(launch, local_device_ids=_local_gpus(variables, launch, num_gpus))


def _jax_variables(variables: Mapping[str, str], launch: Launch | None) -> Launch | None:
    """Reads JAX's own variables. The address alone replaces that of the launcher."""
    values = {name: variables[name] for name in JAX_VARIABLES if variables.get(name)}
    if PROCESS_ID not in values and NUM_PROCESSES in values and "JOB_COMPLETION_INDEX" in variables:
        # Kubernetes sets it in each pod of an indexed job.
        values[PROCESS_ID] = variables["JOB_COMPLETION_INDEX"]
    if not values:
        return None
    if set(values) == {ADDRESS} and launch is not None:
        return dataclasses.replace(launch, coordinator=_address(values[ADDRESS]))
    if _integer(values, NUM_PROCESSES, 0) == 1 and not _integer(values, PROCESS_ID, 0):
        return Launch("JAX's variables")
    missing = [name for name in JAX_VARIABLES if name not in values]
    if missing:
        raise InputError(
            f"expected {', '.join(JAX_VARIABLES)} together, found {', '.join(values)} without "
            f"{', '.join(missing)}: set all three, or none of them"
        )
    found = Launch(
        "JAX's variables",
        num_processes=_integer(values, NUM_PROCESSES),
        process_id=_integer(values, PROCESS_ID),
        coordinator=_address(values[ADDRESS]),
    )
    # A launcher's task may start several processes. With fewer than the launcher started, ids would repeat.
    if launch is not None and (
        launch.num_processes > found.num_processes
        or (launch.num_processes == found.num_processes and launch.process_id != found.process_id)
    ):
        raise InputError(
            f"expected {NUM_PROCESSES} and {PROCESS_ID} to agree with {launch.launcher}, found process "
            f"{found.process_id} of {found.num_processes} and process {launch.process_id} of "
            f"{launch.num_processes}: unset {', '.join(JAX_VARIABLES)}, or start without {launch.launcher}"
        )
    return found


def _open_mpi(variables: Mapping[str, str]) -> Launch | None:
    if "OMPI_COMM_WORLD_SIZE" not in variables:
        return None
    launch = Launch(
        "Open MPI",
        num_processes=_integer(variables, "OMPI_COMM_WORLD_SIZE"),
        process_id=_integer(variables, "OMPI_COMM_WORLD_RANK"),
        num_local_processes=_integer(variables, "OMPI_COMM_WORLD_LOCAL_SIZE"),
        local_process_id=_integer(variables, "OMPI_COMM_WORLD_LOCAL_RANK"),
    )
    # mpirun's address: "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911" in version 4, missing in version 5.
    uri = variables.get("OMPI_MCA_orte_hnp_uri", "")
    number = uri.partition(".")[0] or re.sub(r"\D", "", variables.get("PMIX_NAMESPACE", ""))
    port = _port(variables, int(number or 0) // NUM_PORTS if uri else int(number or 0))
    if launch.num_local_processes == launch.num_processes:
        return dataclasses.replace(launch, coordinator=f"127.0.0.1:{port}")
    host = re.search(r"tcp://([^,:]+)|tcp6://(\[[^,\]]+)", uri)
    if host is None and not variables.get(ADDRESS):
        raise InputError(
            "expected the address of mpirun in OMPI_MCA_orte_hnp_uri (set by versions before 5), found none: "
            f"start with `mpirun -x {ADDRESS}=<host of rank 0>:<free port> ...`"
        )
    name = host and (host[1] or f"{host[2]}]")
    return dataclasses.replace(launch, coordinator=name and f"{name}:{port}")


def _slurm(variables: Mapping[str, str]) -> Launch | None:
    """A task of `srun`. Batch scripts and interactive shells run alone, however many tasks were allocated."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if any(name not in variables for name in names):
        return None
    step = _integer(variables, "SLURM_STEP_ID")
    if step >= FIRST_BATCH_STEP:
        return None
    num_processes = _integer(variables, "SLURM_STEP_NUM_TASKS")
    num_local = _tasks_on_node(
        variables.get("SLURM_STEP_TASKS_PER_NODE", ""), _integer(variables, "SLURM_NODEID", 0)
    )
    # The port depends on the step too: remains of a killed step may still hold its port.
    port = _port(variables, _integer(variables, "SLURM_JOB_ID") + 257 * step)
    host = "127.0.0.1" if num_local == num_processes else first_host(variables["SLURM_STEP_NODELIST"])
    return Launch(
        "Slurm",
        num_processes=num_processes,
        process_id=_integer(variables, "SLURM_PROCID"),
        coordinator=f"{host}:{port}",
        num_local_processes=num_local,
        local_process_id=_integer(variables, "SLURM_LOCALID", 0),
    )


def first_host(nodes: str) -> str:
    """Returns the first host of Slurm's list of nodes.

    >>> first_host("node[003-005,9],login"), first_host("a1,a2"), first_host("r[1-2]n[07,9]-ib")
    ('node003', 'a1', 'r1n07-ib')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None:
        raise InputError(f"expected names of nodes in SLURM_STEP_NODELIST, found {nodes!r}")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def _tasks_on_node(counts: str, node: int) -> int | None:
    """Returns entry `node` of Slurm's list of task counts, such as "2(x3),1"."""
    expanded: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        expanded += [int(count)] * int(times or 1)
    return expanded[node] if node < len(expanded) else None


def _skypilot(variables: Mapping[str, str]) -> Launch | None:
    """One process per node."""
    if "SKYPILOT_NUM_NODES" not in variables:
        return None
    addresses = variables.get("SKYPILOT_NODE_IPS", "").split()
    num_nodes = _integer(variables, "SKYPILOT_NUM_NODES")
    if len(addresses) != num_nodes:
        raise InputError(
            f"expected {num_nodes} addresses in SKYPILOT_NODE_IPS (SKYPILOT_NUM_NODES), found "
            f"{len(addresses)}: start the process on every node, as SkyPilot's `run` does"
        )
    return Launch(
        "SkyPilot",
        num_processes=num_nodes,
        process_id=_integer(variables, "SKYPILOT_NODE_RANK"),
        coordinator=f"{addresses[0]}:{_port(variables, default=SKYPILOT_PORT)}",
        num_local_processes=1,
        local_process_id=0,
    )


def _tpu_pod(variables: Mapping[str, str]) -> Launch | None:
    """Hosts of one or more TPU slices, if the environment lists them (Google Kubernetes Engine)."""
    addresses = variables.get("TPU_PROCESS_ADDRESSES") or variables.get("TPU_WORKER_HOSTNAMES")
    if not addresses:
        return None
    hosts = addresses.split(",")
    slices = _integer(variables, "MEGASCALE_NUM_SLICES", 1)
    if len(hosts) * slices == 1:
        return None
    first = variables.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
    slice_start = len(hosts) * _integer(variables, "MEGASCALE_SLICE_ID", 0)
    return Launch(
        "a TPU pod",
        num_processes=len(hosts) * slices,
        process_id=slice_start + _integer(variables, "TPU_WORKER_ID"),
        coordinator=f"{first.split(':')[0]}:{_port(variables, default=TPU_PORT)}",
    )


def _local_gpus(variables: Mapping[str, str], launch: Launch, num_gpus: int) -> tuple[int, ...] | None:
    """The GPUs of this process: an equal part of the machine's visible GPUs. None: all visible ones."""
    num_processes, local_id = launch.num_local_processes, launch.local_process_id
    slurm_assigns = "SLURM_GPUS_PER_TASK" in variables or "gpu" in variables.get("SLURM_TRES_PER_TASK", "")
    jax_assigns = variables.get("JAX_LOCAL_DEVICE_IDS")
    if num_processes in (None, 1) or local_id is None or slurm_assigns or jax_assigns:
        return None
    if "CUDA_VISIBLE_DEVICES" in variables:
        num_gpus = len([name for name in variables["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()])
    if num_gpus <= 1:
        return None  # no GPU, or the launcher has assigned one to each process
    num_each, remainder = divmod(num_gpus, num_processes)
    if remainder:
        raise InputError(
            f"expected the processes of this machine to divide its {num_gpus} GPUs evenly, found "
            f"{num_processes} processes ({launch.launcher}): start one process per machine, or a divisor of "
            f"{num_gpus}, or set JAX_LOCAL_DEVICE_IDS for each"
        )
    return tuple(range(local_id * num_each, (local_id + 1) * num_each))


def _port(variables: Mapping[str, str], number: int = 0, default: int | None = None) -> int:
    """The coordinator's port: the same in all processes of a job, and rarely that of another job."""
    computed = FIRST_PORT + number % NUM_PORTS if default is None else default
    return _integer(variables, "JAX_COORDINATOR_PORT", computed)


def _address(text: str) -> str:
    if not re.fullmatch(r".+:\d+", text):
        raise InputError(
            f"expected {ADDRESS}=host:port, found {text!r}: add a port that is free on that host"
        )
    return text


def _integer(variables: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = variables.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdecimal():
        raise InputError(f"expected a whole number in the variable {name}, found {text or 'nothing'!r}")
    return int(text)
