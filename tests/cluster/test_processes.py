"""jax.distributed is initialised from the environment, and processes share errors and values.

The other processes are simulated here. test_two_processes.py starts them.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax.cli.main import main
from mmjax.cluster import processes
from mmjax.errors import InputError, SharedInputError

ROOT = Path(__file__).parents[2]
JAX_VARIABLES = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"}


@pytest.fixture
def initialize_call(monkeypatch) -> dict:
    """The arguments of the call of jax.distributed.initialize, which does nothing; empty without a call."""
    calls: dict = {}

    def initialize(*arguments, **options):
        calls.update(arguments=arguments, **options)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


def test_a_single_process_does_not_initialize_jax_distributed(initialize_call):
    assert processes.initialize().num_processes == 1 and not initialize_call


def test_jax_distributed_gets_the_values_of_the_launch(initialize_call, monkeypatch):
    for name, value in JAX_VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert processes.initialize().launcher == "JAX's variables"
    assert initialize_call["arguments"] == ("10.0.0.1:1234", 4, 0, None)
    assert initialize_call["heartbeat_timeout_seconds"] == processes.HEARTBEAT_TIMEOUT_SECONDS == 30
    assert initialize_call["cluster_detection_method"] == "deactivate"
    assert initialize_call["coordinator_bind_address"] is None  # other machines must reach it
    assert jax.config.jax_enable_preemption_service is False  # mmjax handles SIGTERM itself
    jax.config.update("jax_enable_preemption_service", True)


def test_on_one_machine_the_coordinator_binds_to_loopback_only(initialize_call, monkeypatch):
    for name, value in (JAX_VARIABLES | {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1234"}).items():
        monkeypatch.setenv(name, value)
    processes.initialize()
    assert initialize_call["coordinator_bind_address"] == "127.0.0.1:1234"
    jax.config.update("jax_enable_preemption_service", True)


def test_a_running_jax_distributed_is_used_as_it_is(initialize_call, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")  # incomplete, but not read
    assert processes.initialize().launcher == "jax.distributed, already running" and not initialize_call


def test_a_port_in_use_is_an_input_error_of_one_line(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("UNKNOWN: Failed to start RPC server\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    for name, value in JAX_VARIABLES.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        InputError, match=r"expected 4 processes to connect to 10\.0\.0\.1:1234 .* RPC server\. Check"
    ):
        processes.initialize()
    jax.config.update("jax_enable_preemption_service", True)


def test_incomplete_variables_end_training_with_exit_code_2(monkeypatch, tmp_path, capsys):
    (tmp_path / "empty.py").write_text("")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    assert main(["train", str(tmp_path / "empty.py")]) == 2
    assert "set all three, or none of them" in capsys.readouterr().err


def test_a_single_process_shares_nothing():
    stop_flag = processes.SharedStopFlag()
    assert [stop_flag(flag) for flag in (False, True, False)] == [False, True, False]
    assert processes.broadcast_from_process_zero(lambda: {"a": [1]}) == {"a": [1]}
    assert (
        processes.sum_over_processes(3, 4) == [3, 4]
        and processes.any_process(True)
        and processes.is_process_zero()
    )
    with pytest.raises(InputError, match="^no$") as error, processes.fail_together():
        raise InputError("no")
    assert not isinstance(error.value, SharedInputError)
    processes.exit_immediately(2)  # returns: a single process exits normally


@pytest.fixture
def from_process_1(monkeypatch) -> list:
    """Makes this process the first of two. An item in the list is sent by process 1 in all-gathers."""
    sent: list = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)

    def gather(local):
        return np.stack([local, sent[0] if sent else np.zeros_like(local)])

    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)
    return sent


def test_an_error_in_another_process_is_raised_with_its_message(from_process_1):
    message = np.zeros(processes.MAX_MESSAGE_BYTES, np.uint8)
    text = "expected a disk, found ein Löffel".encode()
    message[: len(text)] = np.frombuffer(text, np.uint8)
    from_process_1.append(message)
    with pytest.raises(SharedInputError, match="^process 1 failed: expected a disk, found ein Löffel$"):
        with processes.fail_together():
            pass


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (InputError("x" * 5000), SharedInputError),
        (OSError(28, "full"), SharedInputError),
        (KeyError("bug"), KeyError),
    ],
)
def test_an_error_in_this_process_is_raised_as_a_shared_error(raised, expected, from_process_1):
    with pytest.raises(expected) as error, processes.fail_together():
        raise raised
    assert str(raised) in str(error.value)


def test_numbers_are_summed_over_processes(from_process_1):
    from_process_1.append(np.array([10, 20], np.int32))
    assert processes.sum_over_processes(1, 2) == [11, 22]


def test_gpus_are_counted_in_dev(monkeypatch):
    assert processes.count_gpus() == len(
        [name for name in os.listdir("/dev") if name[:6] == "nvidia" and name[6:].isdigit()]
    )


def test_the_experiment_file_of_a_single_process_may_configure_devices(tmp_path):
    (tmp_path / "devices.py").write_text("import jax; jax.config.update('jax_num_cpu_devices', 3); 1 / 0")
    command = ["train", str(tmp_path / "devices.py")]
    program = f"from mmjax.cli.main import main; raise SystemExit(main({command!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2 and "ZeroDivisionError" in done.stderr, done.stderr
