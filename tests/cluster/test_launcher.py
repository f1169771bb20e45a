"""The variables that each launcher sets describe the right launch. No launcher is started."""

import pytest

from mmjax.cluster.launcher import SINGLE_PROCESS, Launch, detect_launch
from mmjax.errors import InputError

JAX_VARIABLES = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-08,12]",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_NTASKS": "5",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
SKYPILOT = {
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NODE_IPS": "10.1.0.4\n10.1.0.5\n",
    "SKYPILOT_NODE_RANK": "1",
}
TPU = {"TPU_WORKER_HOSTNAMES": "t-0.tpu,t-1.tpu", "TPU_WORKER_ID": "1"}
SLICES = {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "s0-0.svc:8080",
}


def without(variables: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in names}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, SINGLE_PROCESS),
        (JAX_VARIABLES, ("JAX's variables", 4, 3, "10.0.0.1:1234")),
        (
            without(JAX_VARIABLES, "JAX_PROCESS_ID") | {"JOB_COMPLETION_INDEX": "2"},
            ("JAX's variables", 4, 2, "10.0.0.1:1234"),
        ),
        # 61440 + 1531576320 // 4096 % 4096: the port that JAX computes, too
        (OPEN_MPI, ("Open MPI", 4, 3, "10.96.0.1:62624")),
        (
            OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b,2620::2]:43370"},
            ("Open MPI", 4, 3, "[fe80::b9b]:62880"),
        ),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, ("Open MPI", 4, 3, "127.0.0.1:62624")),
        # version 5 sets no address, but a different namespace for each job
        (
            without(OPEN_MPI, "OMPI_MCA_orte_hnp_uri")
            | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMIX_NAMESPACE": "prterun-node-4097@1"},
            ("Open MPI", 4, 3, "127.0.0.1:61451"),
        ),
        (OPEN_MPI | {"JAX_COORDINATOR_ADDRESS": "head:99"}, ("Open MPI", 4, 3, "head:99")),
        (OPEN_MPI | {"JAX_COORDINATOR_PORT": "99"}, ("Open MPI", 4, 3, "10.96.0.1:99")),
        # mpirun in a Slurm job: the Slurm variables describe mpirun's daemons, not the processes
        (SLURM | OPEN_MPI, ("Open MPI", 4, 3, "10.96.0.1:62624")),
        (SLURM, ("Slurm", 5, 3, "gpu07:62344")),
        (SLURM | {"SLURM_STEP_ID": "2"}, ("Slurm", 5, 3, "gpu07:62858")),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "5", "SLURM_NODEID": "0"}, ("Slurm", 5, 3, "127.0.0.1:62344")),
        (SKYPILOT, ("SkyPilot", 2, 1, "10.1.0.4:8476")),
        (TPU, ("a TPU pod", 2, 1, "t-0.tpu:8482")),
        (TPU | SLICES, ("a TPU pod", 4, 3, "s0-0.svc:8482")),
    ],
)
def test_detects_launcher_process_id_and_coordinator(variables, expected):
    found = detect_launch({"PATH": "/bin"} | variables)
    if expected is not SINGLE_PROCESS:
        found = (found.launcher, found.num_processes, found.process_id, found.coordinator)
    assert found == expected


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # a batch script
        SLURM | {"SLURM_STEP_ID": "4294967290"},  # the interactive shell of salloc
        SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun -n1
        without(SKYPILOT, "SKYPILOT_NODE_IPS") | {"SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_IPS": "10.1.0.4"}
        | {"SKYPILOT_NODE_RANK": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        {"JAX_NUM_PROCESSES": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"},  # a sweep, one run per index
    ],
)  # fmt: skip
def test_a_single_process_in_any_allocation(variables):
    found = detect_launch(variables)
    assert (found.num_processes, found.process_id, found.coordinator) == (1, 0, None)


@pytest.mark.parametrize(
    ("variables", "num_gpus", "expected"),
    [
        (SLURM, 8, (4, 5, 6, 7)),  # two processes per node: half of the GPUs each
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}, 8, (1,)),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "5"}, 8, None),  # the launcher has assigned one GPU to each process
        (SLURM | {"SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, 8, None),
        (SLURM | {"SLURM_TRES_PER_TASK": "gres/gpu:2", "CUDA_VISIBLE_DEVICES": "0,1"}, 8, None),
        (SLURM | {"JAX_LOCAL_DEVICE_IDS": "3"}, 8, None),  # JAX reads it
        (SLURM | {"SLURM_NODEID": "2"}, 8, None),  # one process on this node: all of its GPUs
        (SLURM, 0, None),
        (OPEN_MPI, 2, (1,)),
        (SKYPILOT, 8, None),
        (JAX_VARIABLES, 8, None),
    ],
)
def test_processes_of_a_machine_divide_its_gpus(variables, num_gpus, expected):
    assert detect_launch(variables, num_gpus).local_device_ids == expected


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            without(JAX_VARIABLES, "JAX_PROCESS_ID"),
            "found JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES without JAX_PROC",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1"},
            "without JAX_NUM_PROCESSES, JAX_PROCESS_ID: set all three, or none",
        ),
        (JAX_VARIABLES | {"JAX_PROCESS_ID": "4"}, "expected a process id from 0 to 3, found 4"),
        (
            JAX_VARIABLES | {"JAX_NUM_PROCESSES": "two"},
            "expected a whole number in the variable JAX_NUM_PROCESSES, f",
        ),
        (
            JAX_VARIABLES | {"JAX_COORDINATOR_ADDRESS": "head"},
            "expected JAX_COORDINATOR_ADDRESS=host:port, found 'he",
        ),
        (JAX_VARIABLES | SLURM, "found process 3 of 4 and process 3 of 5: unset JAX_COORDINATOR_ADDRESS"),
        (JAX_VARIABLES | OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "1"}, "process 3 of 4 and process 1 of 4"),
        (
            without(OPEN_MPI, "OMPI_MCA_orte_hnp_uri"),
            "start with `mpirun -x JAX_COORDINATOR_ADDRESS=<host of",
        ),
        (SKYPILOT | {"SKYPILOT_NUM_NODES": "3"}, "expected 3 addresses in SKYPILOT_NODE_IPS"),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2"}, "to divide its 3 GPUs evenly, found 2 processes (Slurm)"),
        (SLURM | {"SLURM_STEP_NODELIST": ""}, "expected names of nodes in SLURM_STEP_NODELIST, found ''"),
    ],
)
def test_invalid_variables_are_rejected(variables, message):
    with pytest.raises(InputError) as refusal:
        detect_launch(variables)
    assert message in str(refusal.value)


def test_a_slurm_task_may_start_several_processes():
    variables = JAX_VARIABLES | {"JAX_NUM_PROCESSES": "8"}
    assert detect_launch(SLURM | variables).num_processes == 8


@pytest.mark.parametrize(
    ("coordinator", "expected"),
    [("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("10.0.0.1:1", False), (None, False)],
)
def test_is_on_one_machine_only_for_loopback_addresses(coordinator, expected):
    assert Launch("", 2, 0, coordinator).is_on_one_machine is expected
