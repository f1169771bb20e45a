"""What the launcher's environment variables say: who started this process, and as which of how many.

A pure function of the variables, so that each launcher is tested without it. `distributed.py` acts on it.
"""

import dataclasses
import re
from collections.abc import Mapping

from mmjax.errors import InputError

ADDRESS, COUNT, PROCESS = EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LOOPBACK = ("127.", "localhost", "[::1]")
# Above the ports that Linux hands out by itself; JAX uses the same.
FIRST_PORT, NUM_PORTS = 61440, 4096
SKYPILOT_PORT, TPU_PORT = 8476, 8482
BATCH_STEPS = 4294967290  # Slurm's step numbers from here on are batch scripts and interactive shells


@dataclasses.dataclass(frozen=True)
class Launch:
    """One process among those that were started together."""

    launcher: str  # who says so
    num_processes: int = 1
    process_id: int = 0
    coordinator: str | None = None  # "host:port" of process 0; None only for a single process
    num_local_processes: int | None = None  # on this machine; None: not told
    local_process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None  # of this machine's GPUs; None: all that are visible

    @property
    def on_one_machine(self) -> bool:
        """The coordinator need not listen to any other machine."""
        return self.coordinator is not None and self.coordinator.startswith(LOOPBACK)


SINGLE = Launch("a single process")


def detect(variables: Mapping[str, str], num_gpus: int = 0) -> Launch:
    """The launch that the environment `variables` describe, on a machine with `num_gpus` GPUs.

    JAX's own variables come first, then Open MPI (whose processes under Slurm also see Slurm's variables of
    its daemons), Slurm, SkyPilot and Cloud TPU pods. Kubernetes and Ray have launch files that set JAX's.

    Raises:
      InputError: variables that are half set, malformed, or contradict each other.
    """
    launch = _open_mpi(variables) or _slurm(variables) or _skypilot(variables) or _tpu_pod(variables)
    explicit = _explicit(variables, launch)
    if explicit is not None:
        launch = explicit
    if launch is None or launch.num_processes == 1:
        return SINGLE if launch is None else dataclasses.replace(launch, coordinator=None)
    if not 0 <= launch.process_id < launch.num_processes:
        raise InputError(
            f"expected a process id from 0 to {launch.num_processes - 1}, found {launch.process_id} "
            f"({launch.launcher}): processes are numbered from 0"
        )
    return dataclasses.replace(launch, local_device_ids=_local_gpus(variables, launch, num_gpus))


def _explicit(variables: Mapping[str, str], launch: Launch | None) -> Launch | None:
    """JAX's own variables; the address alone corrects what a launcher says."""
    given = {name: variables[name] for name in EXPLICIT if variables.get(name)}
    if PROCESS not in given and COUNT in given and "JOB_COMPLETION_INDEX" in variables:
        # Kubernetes gives it to each pod of an indexed job.
        given[PROCESS] = variables["JOB_COMPLETION_INDEX"]
    if not given:
        return None
    if set(given) == {ADDRESS} and launch is not None:
        return dataclasses.replace(launch, coordinator=_address(given[ADDRESS]))
    if _integer(given, COUNT, 0) == 1 and not _integer(given, PROCESS, 0):
        return Launch("JAX's variables")
    missing = [name for name in EXPLICIT if name not in given]
    if missing:
        raise InputError(
            f"expected {', '.join(EXPLICIT)} together, found {', '.join(given)} without "
            f"{', '.join(missing)}: set all three, or none of them"
        )
    found = Launch(
        "JAX's variables",
        num_processes=_integer(given, COUNT),
        process_id=_integer(given, PROCESS),
        coordinator=_address(given[ADDRESS]),
    )
    # A launcher's task may start several processes of its own; fewer than the launcher did cannot all differ.
    if launch is not None and (
        launch.num_processes > found.num_processes
        or (launch.num_processes == found.num_processes and launch.process_id != found.process_id)
    ):
        raise InputError(
            f"expected {COUNT} and {PROCESS} to agree with {launch.launcher}, found process "
            f"{found.process_id} of {found.num_processes} and process {launch.process_id} of "
            f"{launch.num_processes}: unset {', '.join(EXPLICIT)}, or start without {launch.launcher}"
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
    # Version 4 gives "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911", where mpirun itself runs; 5 nothing.
    uri = variables.get("OMPI_MCA_orte_hnp_uri", "")
    number = uri.partition(".")[0] or re.sub(r"\D", "", variables.get("PMIX_NAMESPACE", ""))
    port = _port(variables, int(number or 0) // NUM_PORTS if uri else int(number or 0))
    if launch.num_local_processes == launch.num_processes:
        return dataclasses.replace(launch, coordinator=f"127.0.0.1:{port}")
    host = re.search(r"tcp://([^,:]+)|tcp6://(\[[^,\]]+)", uri)
    if host is None and not variables.get(ADDRESS):
        raise InputError(
            "expected Open MPI to say where mpirun runs (OMPI_MCA_orte_hnp_uri, of versions before 5), found "
            f"nothing: start with `mpirun -x {ADDRESS}=<host of rank 0>:<free port> ...`"
        )
    name = host and (host[1] or f"{host[2]}]")
    return dataclasses.replace(launch, coordinator=name and f"{name}:{port}")


def _slurm(variables: Mapping[str, str]) -> Launch | None:
    """A task of `srun`. A batch script or an interactive shell is none, however many tasks were allocated."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if any(name not in variables for name in names):
        return None
    step = _integer(variables, "SLURM_STEP_ID")
    if step >= BATCH_STEPS:
        return None
    num_processes = _integer(variables, "SLURM_STEP_NUM_TASKS")
    here = _tasks_on_node(
        variables.get("SLURM_STEP_TASKS_PER_NODE", ""), _integer(variables, "SLURM_NODEID", 0)
    )
    # The step's number too: what is left of a step that was killed may still hold its port.
    port = _port(variables, _integer(variables, "SLURM_JOB_ID") + 257 * step)
    host = "127.0.0.1" if here == num_processes else first_host(variables["SLURM_STEP_NODELIST"])
    return Launch(
        "Slurm",
        num_processes=num_processes,
        process_id=_integer(variables, "SLURM_PROCID"),
        coordinator=f"{host}:{port}",
        num_local_processes=here,
        local_process_id=_integer(variables, "SLURM_LOCALID", 0),
    )


def first_host(nodes: str) -> str:
    """The first name of Slurm's list of nodes.

    >>> first_host("node[003-005,9],login"), first_host("a1,a2"), first_host("r[1-2]n[07,9]-ib")
    ('node003', 'a1', 'r1n07-ib')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None:
        raise InputError(f"expected names of nodes in SLURM_STEP_NODELIST, found {nodes!r}")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def _tasks_on_node(counts: str, node: int) -> int | None:
    """Entry `node` of Slurm's "2(x3),1"."""
    expanded: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        expanded += [int(count)] * int(times or 1)
    return expanded[node] if node < len(expanded) else None


def _skypilot(variables: Mapping[str, str]) -> Launch | None:
    """One process a node."""
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
    """Hosts of one or several TPU slices, where the environment names them (Google Kubernetes Engine)."""
    names = variables.get("TPU_PROCESS_ADDRESSES") or variables.get("TPU_WORKER_HOSTNAMES")
    if not names:
        return None
    hosts = names.split(",")
    slices = _integer(variables, "MEGASCALE_NUM_SLICES", 1)
    if len(hosts) * slices == 1:
        return None
    first = variables.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
    of_slice = len(hosts) * _integer(variables, "MEGASCALE_SLICE_ID", 0)
    return Launch(
        "a TPU pod",
        num_processes=len(hosts) * slices,
        process_id=of_slice + _integer(variables, "TPU_WORKER_ID"),
        coordinator=f"{first.split(':')[0]}:{_port(variables, default=TPU_PORT)}",
    )


def _local_gpus(variables: Mapping[str, str], launch: Launch, num_gpus: int) -> tuple[int, ...] | None:
    """Which of the machine's visible GPUs are this process's: an equal part of them, not always one."""
    processes, own = launch.num_local_processes, launch.local_process_id
    bound = "SLURM_GPUS_PER_TASK" in variables or "gpu" in variables.get("SLURM_TRES_PER_TASK", "")
    if processes in (None, 1) or own is None or bound or variables.get("JAX_LOCAL_DEVICE_IDS"):
        return None  # all that are visible, or those that JAX_LOCAL_DEVICE_IDS names
    if "CUDA_VISIBLE_DEVICES" in variables:
        num_gpus = len([name for name in variables["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()])
    if num_gpus <= 1:
        return None  # none, or the launcher has shared them out
    each, left = divmod(num_gpus, processes)
    if left:
        raise InputError(
            f"expected the {num_gpus} GPUs of this machine to be shared evenly by its processes, found "
            f"{processes} ({launch.launcher}): start as many on a machine as divide {num_gpus}, one for "
            "example, or name each one's in JAX_LOCAL_DEVICE_IDS"
        )
    return tuple(range(own * each, (own + 1) * each))


def _port(variables: Mapping[str, str], number: int = 0, default: int | None = None) -> int:
    """A port that jobs which run at the same time hardly share; all processes of a job find the same."""
    computed = FIRST_PORT + number % NUM_PORTS if default is None else default
    return _integer(variables, "JAX_COORDINATOR_PORT", computed)


def _address(text: str) -> str:
    if not re.fullmatch(r".+:\d+", text):
        raise InputError(
            f"expected {ADDRESS}=host:port, found {text!r}: add the port, a free one on that host"
        )
    return text


def _integer(variables: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = variables.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdecimal():
        raise InputError(f"expected a whole number in the variable {name}, found {text or 'nothing'!r}")
    return int(text)
