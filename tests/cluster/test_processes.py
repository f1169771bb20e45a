"""Starting jax.distributed from the environment, and decisions; really started: test_processes.py."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax.cli.main import main
from mmjax.errors import InputError, SharedRefusal

ROOT = Path(__file__).parents[2]
EXPLICIT = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"}


@pytest.fixture
def started(monkeypatch) -> dict:
    """What jax.distributed.initialize would have been called with."""
    calls: dict = {}

    def initialize(*arguments, **options):
        calls.update(arguments=arguments, **options)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


def test_a_single_process_starts_nothing(started):
    assert processes.start().num_processes == 1 and not started


def test_what_the_launcher_says_is_what_jax_is_told(started, monkeypatch):
    for name, value in EXPLICIT.items():
        monkeypatch.setenv(name, value)
    assert processes.start().launcher == "JAX's variables"
    assert started["arguments"] == ("10.0.0.1:1234", 4, 0, None)
    assert started["heartbeat_timeout_seconds"] == processes.HEARTBEAT_SECONDS == 30
    assert started["cluster_detection_method"] == "deactivate"
    assert started["coordinator_bind_address"] is None  # other machines must reach it
    assert jax.config.jax_enable_preemption_service is False  # SIGTERM stays ours
    jax.config.update("jax_enable_preemption_service", True)


def test_on_one_machine_the_coordinator_listens_on_loopback_only(started, monkeypatch):
    for name, value in (EXPLICIT | {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1234"}).items():
        monkeypatch.setenv(name, value)
    processes.start()
    assert started["coordinator_bind_address"] == "127.0.0.1:1234"
    jax.config.update("jax_enable_preemption_service", True)


def test_what_already_runs_is_left_alone(started, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")  # half set, and not looked at
    assert processes.start().launcher == "jax.distributed, already running" and not started


def test_a_port_that_is_taken_is_one_message(monkeypatch):
    def taken(*_, **__):
        raise RuntimeError("UNKNOWN: Failed to start RPC server\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", taken)
    for name, value in EXPLICIT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        InputError, match=r"expected to meet 4 processes at 10\.0\.0\.1:1234 .* RPC server\. See"
    ):
        processes.start()
    jax.config.update("jax_enable_preemption_service", True)


def test_half_set_variables_end_training_with_2(monkeypatch, tmp_path, capsys):
    (tmp_path / "empty.py").write_text("")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    assert main(["train", str(tmp_path / "empty.py")]) == 2
    assert "set all three, or none of them" in capsys.readouterr().err


def test_alone_decisions_are_ones_own():
    vote = processes.StopVote()
    assert [vote(False), vote(True), vote(False)] == [False, True, False]
    assert processes.broadcast_from_first(lambda: {"a": [1]}) == {"a": [1]}
    assert processes.total(3, 4) == [3, 4] and processes.any_process(True) and processes.is_first()
    with pytest.raises(InputError, match="^no$") as refusal, processes.fail_together():
        raise InputError("no")
    assert not isinstance(refusal.value, SharedRefusal)
    processes.leave(2)  # there is nobody to leave


@pytest.fixture
def two(monkeypatch):
    """This process as the first of two; `say` sets what the other one contributes to a gathering."""
    other: list = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)

    def gather(mine):
        return np.stack([mine, other[0] if other else np.zeros_like(mine)])

    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)
    return other


def test_a_refusal_elsewhere_is_raised_here_with_its_message(two):
    message = np.zeros(processes.MESSAGE_BYTES, np.uint8)
    text = "expected a disk, found ein Löffel".encode()
    message[: len(text)] = np.frombuffer(text, np.uint8)
    two.append(message)
    with pytest.raises(SharedRefusal, match="^process 1 was refused: expected a disk, found ein Löffel$"):
        with processes.fail_together():
            pass


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (InputError("x" * 5000), SharedRefusal),
        (OSError(28, "full"), SharedRefusal),
        (KeyError("bug"), KeyError),
    ],
)
def test_ones_own_refusal_is_told_to_all_and_raised(raised, expected, two):
    with pytest.raises(expected) as refusal, processes.fail_together():
        raise raised
    assert str(raised) in str(refusal.value)


def test_sums_over_processes(two):
    two.append(np.array([10, 20], np.int32))
    assert processes.total(1, 2) == [11, 22]


def test_gpus_are_counted_without_jax(monkeypatch):
    assert processes.num_gpus() == len(
        [name for name in os.listdir("/dev") if name[:6] == "nvidia" and name[6:].isdigit()]
    )


def test_an_experiment_of_one_process_may_still_configure_its_devices(tmp_path):
    (tmp_path / "devices.py").write_text("import jax; jax.config.update('jax_num_cpu_devices', 3); 1 / 0")
    command = ["train", str(tmp_path / "devices.py")]
    program = f"from mmjax.cli.main import main; raise SystemExit(main({command!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2 and "ZeroDivisionError" in done.stderr, done.stderr
