"""The files in experiments/launch set what their launchers and `mmjax train` need.

Tests in tests/engines run some of them.
"""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mmjax.cluster.launcher import JAX_VARIABLES, detect_launch
from mmjax.errors import InputError

FOLDER = Path(__file__).parents[2] / "experiments" / "launch"
FILES = sorted(path for path in FOLDER.iterdir() if path.is_file())


def read(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_has_a_section_in_docs_launch_md(path):
    text = (FOLDER.parents[1] / "docs" / "launch.md").read_text()
    assert f"experiments/launch/{path.name}" in text
    assert "docs/launch.md" in path.read_text()


def test_jobset_gives_each_pod_its_id_and_the_coordinator():
    spec = read("jobset.yaml")
    (job,) = spec["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert set(variables) == set(JAX_VARIABLES)
    index = variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    values = {name: str(v["value"]) for name, v in variables.items() if "value" in v}
    launch = detect_launch(values | {"JAX_PROCESS_ID": str(pods["completions"] - 1)})
    assert launch.num_processes == pods["completions"] == pods["parallelism"]
    name, port = spec["metadata"]["name"], container["ports"][0]["containerPort"]
    assert launch.coordinator == f"{name}-{job['name']}-0-0.{name}:{port}"
    assert spec["spec"]["network"]["publishNotReadyAddresses"] is True
    assert pods["completionMode"] == "Indexed" and pods["backoffLimit"] == 0
    (rule,) = pods["podFailurePolicy"]["rules"]
    assert (
        rule["onExitCodes"]["values"] == [2, 3] and rule["onExitCodes"]["containerName"] == container["name"]
    )
    assert container["command"][:2] == ["mmjax", "train"]


def test_kubeflow_uses_the_runtime_that_sets_the_variables():
    spec = read("kubeflow-trainjob.yaml")
    assert (spec["kind"], spec["spec"]["runtimeRef"]["name"]) == ("TrainJob", "jax-distributed")
    assert (
        spec["spec"]["trainer"]["command"] == ["mmjax", "train"] and spec["spec"]["trainer"]["numNodes"] == 2
    )


def test_skypilot_sets_the_variables_that_mmjax_reads():
    spec = read("skypilot.yaml")
    assert "mmjax train" in spec["run"] and spec["num_nodes"] == 2
    addresses = "\n".join(f"10.0.0.{n}" for n in range(spec["num_nodes"]))
    variables = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": addresses, "SKYPILOT_NODE_RANK": "1"}
    assert all(name in (FOLDER / "skypilot.yaml").read_text() for name in variables)
    assert detect_launch(variables).process_id == 1
    with pytest.raises(InputError):
        detect_launch(variables | {"SKYPILOT_NODE_IPS": "10.0.0.1"})


def test_ray_sets_the_variables_that_mmjax_reads():
    tree = ast.parse((FOLDER / "ray_train.py").read_text())
    constants = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert set(JAX_VARIABLES) <= constants


@pytest.fixture
def job(tmp_path):
    """Runs the job script with a fake `srun` that exits with `codes` in turn: (exit code, calls, output)."""

    def run(*codes: int) -> tuple[int, list[str], str]:
        calls = tmp_path / "calls"
        queue = tmp_path / "codes"
        queue.write_text("".join(f"{code}\n" for code in codes))
        programs = {
            "srun": f'echo "srun $*" >> {calls}; code=$(head -1 {queue}); sed -i 1d {queue}; exit $code',
            "scontrol": f'echo "scontrol $*" >> {calls}',
            "sleep": "exit 0",
        }
        for name, body in programs.items():
            (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
            (tmp_path / name).chmod(0o755)
        done = subprocess.run(
            ["bash", "-u", FOLDER / "slurm.sbatch", "my.py", "mesh.fsdp=-1"],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, calls.read_text().splitlines(), done.stdout

    return run


@pytest.mark.parametrize(
    ("codes", "expected", "starts"),
    [([0], 0, 1), ([2], 2, 1), ([3], 3, 1), ([137, 134, 0], 0, 3), ([1, 1, 1, 1, 1], 1, 4)],
)
def test_job_script_restarts_after_a_crash_and_not_after_exit_codes_2_and_3(codes, expected, starts, job):
    code, calls, _ = job(*codes)
    assert code == expected
    assert calls == ["srun --kill-on-bad-exit=1 mmjax train my.py mesh.fsdp=-1"] * starts


def test_job_script_requeues_after_a_stop_signal(job):
    code, calls, log = job(75)
    assert code == 75 and calls[1:] == ["scontrol requeue 7"] and "requeueing" in log


def test_job_script_has_the_options_that_docs_launch_md_describes():
    options = re.findall(r"^#SBATCH (.*)", (FOLDER / "slurm.sbatch").read_text(), flags=re.M)
    assert {"--ntasks-per-node=1", "--requeue", "--signal=TERM@300", "--open-mode=append"} <= set(options)
