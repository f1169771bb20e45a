"""Each finding of the doctor, on facts made for it; and what it sees here."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmjax.cli import doctor
from mmjax.cli.doctor import Facts, findings
from mmjax.cli.main import main
from mmjax.cluster.launcher import Launch
from mmjax.errors import InputError

SLURM = Launch("Slurm", 4, 1, "gpu01:61440", num_local_processes=1, local_process_id=0)
# Two nodes of eight GPUs, one process each; nothing is amiss.
WELL = Facts(
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
        ({"launch_error": "expected X, found Y"}, True, "expected X, found Y", "refuses to start"),
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
            "gpu02 has 8 GPUs, and this jaxlib knows only the CPU",
            "pip install 'jax[cuda12]' (or cuda13, as `nvidia-smi` says of the driver), of the version",
        ),
        (
            {"num_local_devices": 1, "variables": {"CUDA_VISIBLE_DEVICES": "0"}},
            True,
            "gpu02 has 8 GPUs; its 1 process use 1 each (Slurm, CUDA_VISIBLE_DEVICES=0)",
            "--ntasks-per-node=1 --gpus-per-node=8, and no --gpus-per-task",
        ),
        ({"shared_memory": 64 * 2**20}, False, "/dev/shm of gpu02 has 64 MiB free", "--shm-size=16g"),
        ({"shared_memory": None}, False, "/dev/shm of gpu02 has none", "--shm-size=16g"),
        (
            {"data_bytes_per_second": 3e6},
            False,
            "/data gives 3 MB/s to one reader, less than 100",
            "local disk",
        ),
        (
            {"device_kind": "NVIDIA X900"},
            False,
            "FLOP/s of 'NVIDIA X900' is not known",
            "PEAK_FLOPS in mmjax/train",
        ),
    ],
)
def test_each_fault_is_found_with_its_remedy(changed, fault, found, remedy):
    assert findings(WELL) == []
    (finding,) = findings(dataclasses.replace(WELL, **changed))
    assert finding.fault is fault and found in finding.found and remedy in finding.remedy
    printed = doctor.report(dataclasses.replace(WELL, **changed))
    assert f"{'FAULT' if fault else 'note'}: {finding.found}\n  -> {finding.remedy}" in printed


@pytest.mark.parametrize(
    "changed",
    [
        {
            "num_local_devices": 1,
            "launch": dataclasses.replace(SLURM, num_processes=2, num_local_processes=8),
        },
        {"platform": "cpu", "device_kind": "cpu", "variables": {"JAX_PLATFORMS": "cpu"}},  # as asked for
        {"data_bytes_per_second": None},
        {"num_gpus": 0, "platform": "tpu", "device_kind": "TPU v4", "num_local_devices": 4},
    ],
)
def test_what_is_meant_is_no_fault(changed):
    assert findings(dataclasses.replace(WELL, **changed)) == []


def test_faults_come_first():
    both = dataclasses.replace(WELL, shared_memory=0, num_processes=1)
    assert [finding.fault for finding in findings(both)] == [True, False]


def test_report_and_json_say_the_same():
    printed = doctor.report(WELL)
    for expected in (
        "Slurm, 2 processes, coordinator gpu01:61440",
        "1 of 2",
        "8 here, 16 in all",
        "989 TFLOP/s",
    ):
        assert expected in printed
    assert printed.endswith("nothing to mend")
    read = json.loads(doctor.to_json(dataclasses.replace(WELL, shared_memory=0)))
    assert read["launch"]["coordinator"] == "gpu01:61440" and read["peak_flops"] == 989e12
    assert [finding["fault"] for finding in read["findings"]] == [False]


def test_reads_the_data_folder(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").write_bytes(bytes(2**20))
    for path in (tmp_path, tmp_path / "shards" / "a.tar"):
        assert doctor.read_speed(path) > 1000
    with pytest.raises(InputError, match="expected a data folder or file, found nothing at .*nosuch"):
        doctor.read_speed(tmp_path / "nosuch")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected files with data in .*empty, found none"):
        doctor.read_speed(tmp_path / "empty")


def test_names_that_do_not_resolve():
    assert doctor.unresolved(None) == doctor.unresolved("127.0.0.1:1") == doctor.unresolved("[::1]:1") == ""
    assert doctor.unresolved("no.such.host.invalid:1")


def test_this_machine_is_examined(capsys):
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["num_devices"] == facts["num_local_devices"] == 8 and facts["platform"] == "cpu"
    assert facts["versions"]["jax"] and facts["launch"]["num_processes"] == 1


def test_half_set_variables_end_with_2_and_a_report(monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    assert main(["doctor"]) == 2
    captured = capsys.readouterr()
    assert (
        "FAULT: expected JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID together" in captured.out
    )
    assert "found 1: each is listed with its remedy" in captured.err


def test_a_coordinator_that_nobody_is_at_is_said_and_not_waited_for_without_end():
    """In a process of its own: it must not be this one that joins others."""
    program = "from mmjax import doctor; doctor.START_SECONDS = 1; print(doctor.gather().launch_error)"
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
        "expected to meet 2 processes at 127.0.0.1:9 (JAX's variables), found that process 1" in done.stdout
    )
    assert "refused, for 1 seconds" in done.stdout
