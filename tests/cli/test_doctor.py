"""Each check of `mmjax doctor` on made-up system information, and the report of this machine."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmjax.cli import doctor
from mmjax.cli.doctor import SystemInfo, diagnose
from mmjax.cli.main import main
from mmjax.cluster.launcher import Launch
from mmjax.errors import InputError

SLURM = Launch("Slurm", 4, 1, "gpu01:61440", num_local_processes=1, local_process_id=0)
# Two nodes of eight GPUs with one process each, without problems.
HEALTHY = SystemInfo(
    host="gpu02",
    versions={"jax": "0.10.2"},
    launch=dataclasses.replace(SLURM, num_processes=2),
    platform="gpu",
    device_kind="NVIDIA H100 80GB HBM3",
    num_devices=16,
    num_local_devices=8,
    process_index=1,
    num_processes=2,
    num_gpus=8,
    shared_memory=2**34,
    data="/data",
    data_bytes_per_second=1e9,
)


@pytest.mark.parametrize(
    ("changed", "fault", "found", "remedy"),
    [
        ({"launch_error": "expected X, found Y"}, True, "expected X, found Y", "fails to start"),
        (
            {"coordinator_error": "Name or service not known", "num_processes": 1},
            True,
            "gpu01:61440 (Slurm) does not resolve on gpu02: Name or service not known",
            "JAX_COORDINATOR_ADDRESS=<address of process 0>",
        ),
        ({"num_processes": 1}, True, "Slurm started 2 processes, and JAX sees 1", "let `mmjax train` start"),
        (
            {"platform": "cpu", "device_kind": "cpu", "num_local_devices": 1},
            True,
            "gpu02 has 8 GPUs, and the installed jaxlib supports only CPUs",
            "pip install 'jax[cuda12]' (or cuda13, depending on the driver that `nvidia-smi` shows), of the "
            "installed version of jax, 0.10.2",
        ),
        (
            {"num_local_devices": 1, "variables": {"CUDA_VISIBLE_DEVICES": "0"}},
            True,
            "gpu02 has 8 GPUs, found 1 process(es) with 1 GPU(s) each (Slurm, CUDA_VISIBLE_DEVICES=0)",
            "--ntasks-per-node=1 --gpus-per-node=8, and no --gpus-per-task",
        ),
        ({"shared_memory": 64 * 2**20}, False, "/dev/shm of gpu02 has 64 MiB free", "--shm-size=16g"),
        ({"shared_memory": None}, False, "/dev/shm of gpu02 has none", "--shm-size=16g"),
        (
            {"data_bytes_per_second": 3e6},
            False,
            "one reader gets 3 MB/s from /data, less than 100",
            "local disk",
        ),
        (
            {"device_kind": "NVIDIA X900"},
            False,
            "FLOP/s of 'NVIDIA X900' is unknown",
            "PEAK_FLOPS in mmjax/train",
        ),
    ],
)
def test_each_problem_is_found_with_its_remedy(changed, fault, found, remedy):
    assert diagnose(HEALTHY) == []
    (finding,) = diagnose(dataclasses.replace(HEALTHY, **changed))
    assert finding.fault is fault and found in finding.found and remedy in finding.remedy
    printed = doctor.format_report(dataclasses.replace(HEALTHY, **changed))
    assert f"{'FAULT' if fault else 'note'}: {finding.found}\n  -> {finding.remedy}" in printed


@pytest.mark.parametrize(
    "changed",
    [
        {
            "num_local_devices": 1,
            "launch": dataclasses.replace(SLURM, num_processes=2, num_local_processes=8),
        },
        {
            "platform": "cpu",
            "device_kind": "cpu",
            "variables": {"JAX_PLATFORMS": "cpu"},
        },  # CPUs were requested
        {"data_bytes_per_second": None},
        {"num_gpus": 0, "platform": "tpu", "device_kind": "TPU v4", "num_local_devices": 4},
    ],
)
def test_intended_configurations_have_no_findings(changed):
    assert diagnose(dataclasses.replace(HEALTHY, **changed)) == []


def test_faults_are_listed_first():
    both = dataclasses.replace(HEALTHY, shared_memory=0, num_processes=1)
    assert [finding.fault for finding in diagnose(both)] == [True, False]


def test_report_and_json_have_the_same_content():
    printed = doctor.format_report(HEALTHY)
    for expected in (
        "Slurm, 2 processes, coordinator gpu01:61440",
        "1 of 2",
        "8 local, 16 in total",
        "989 TFLOP/s",
    ):
        assert expected in printed
    assert printed.endswith("no problems found")
    parsed = json.loads(doctor.to_json(dataclasses.replace(HEALTHY, shared_memory=0)))
    assert parsed["launch"]["coordinator"] == "gpu01:61440" and parsed["peak_flops"] == 989e12
    assert [finding["fault"] for finding in parsed["findings"]] == [False]


def test_read_speed_of_files_and_folders(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").write_bytes(bytes(2**20))
    for path in (tmp_path, tmp_path / "shards" / "a.tar"):
        assert doctor.measure_read_speed(path) > 1000
    with pytest.raises(InputError, match="expected a data folder or file, found nothing at .*nosuch"):
        doctor.measure_read_speed(tmp_path / "nosuch")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected files with data in .*empty, found none"):
        doctor.measure_read_speed(tmp_path / "empty")


def test_resolution_error_of_unknown_hosts():
    assert (
        doctor.resolution_error(None)
        == doctor.resolution_error("127.0.0.1:1")
        == doctor.resolution_error("[::1]:1")
        == ""
    )
    assert doctor.resolution_error("no.such.host.invalid:1")


def test_report_of_this_machine(capsys):
    assert main(["doctor", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["num_devices"] == info["num_local_devices"] == 8 and info["platform"] == "cpu"
    assert info["versions"]["jax"] and info["launch"]["num_processes"] == 1


def test_incomplete_variables_exit_with_2_after_a_report(monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    assert main(["doctor"]) == 2
    captured = capsys.readouterr()
    assert (
        "FAULT: expected JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID together" in captured.out
    )
    assert "found 1: each is listed with its remedy" in captured.err


def test_a_coordinator_that_does_not_answer_is_reported_after_a_timeout():
    """In a new process, because joining other processes cannot be undone."""
    program = (
        "from mmjax.cli import doctor; doctor.START_TIMEOUT_SECONDS = 1; "
        "print(doctor.collect_info().launch_error)"
    )
    variables = {
        "JAX_COORDINATOR_ADDRESS": "127.0.0.1:9", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "expected 2 processes to connect to 127.0.0.1:9 (JAX's variables), found that process 1"
        in done.stdout
    )
    assert "refused, for 1 seconds" in done.stdout
