"""The plan of a run on a machine that is not at hand: what it adds up to, and what it refuses."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import pytest
import tiny

from mmjax.analysis import memory, plan
from mmjax.cli.main import main
from mmjax.experiment import load
from mmjax.run.loop import Session

H100 = "NVIDIA H100 80GB HBM3"
SPLIT = ["mesh.data=2", "mesh.fsdp=4", "rules=FSDP", "data.batch_size=256"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The experiment, whose data are gone: a plan reads none."""
    folder = tmp_path_factory.mktemp("plan")
    file = tiny.write(folder)
    (folder / "colours.npz").unlink()
    return file


@pytest.fixture(scope="module")
def made(file) -> plan.Plan:
    machine = plan.Machine.of(H100, 8, node_size=4)
    return plan.plan(load(file, SPLIT), machine, jax.devices())


def test_memory_is_that_of_the_program(file, made):
    """The arguments as XLA counts them; the live arrays that are told apart make up its temporaries."""
    compiled = memory.compile_step(Session.of(load(file, SPLIT)))
    stats = compiled.memory_analysis()
    # JAX drops from the program what it does not read, here the words' numbers; in memory they are.
    unread = 256 // 8 * 6 * 4
    assert made.memory.state + made.memory.batch == stats.argument_size_in_bytes + unread
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    assert made.memory.temporaries == stats.temp_size_in_bytes + results
    rows = made.memory.groups.values()
    alive = sum(row.get(column, 0) for row in rows for column in ("forward", "backward"))
    assert alive == pytest.approx(made.memory.temporaries, rel=0.05)


@pytest.mark.once
def test_memory_is_told_by_part_of_the_model(file, made):
    rows = made.memory.groups
    assert list(rows)[:4] == ["encoders image", "encoders text", "heads image", "heads text"]
    # The kernel of a head, 16 x 8 in float32, split four ways along the residual width. Two moments.
    assert rows["heads image"]["parameters"] == 4 * 16 * 8 // 4
    assert rows["heads image"]["optimizer"] == 2 * rows["heads image"]["gradients"] == 2 * 128
    assert rows["encoders text"]["forward"] > 0


@pytest.mark.once
def test_without_rules_each_device_holds_all_and_16_bits_are_pointed_out(file, made):
    half = load(file, ["model.encoders.text.trunk.dtype=bfloat16"])
    whole = plan.plan(half, plan.Machine.of(H100, 8), jax.devices())
    assert whole.memory.groups["heads image"]["parameters"] == 4 * 16 * 8
    note = "note: compiled for CPUs, which widen 16-bit arithmetic"
    assert note in plan.describe(whole) and note not in plan.describe(made)


def test_collectives_are_told_by_axis_and_by_the_network_that_they_cross(made):
    over = {row.axes: row.over for row in made.talk}
    assert over[("fsdp",)] == "links"  # a node holds the four devices along fsdp
    assert over[("data",)] == over[("data", "fsdp")] == "network"
    gathered = next(row for row in made.talk if (row.kind, row.axes) == ("all-gather", ("fsdp",)))
    assert gathered.times >= 2 and gathered.sent_bytes > 0 and "encoders" in gathered.largest
    kinds = {row.kind for row in made.talk if row.axes == ("fsdp",)}
    assert "reduce-scatter" in kinds


def test_time_is_what_the_data_sheet_allows(made):
    device = made.machine.accelerator
    sent = sum(row.sent_bytes for row in made.talk if row.over == "network")
    assert made.seconds["network"] == pytest.approx(sent / 50e9)
    assert made.seconds["compute"] == made.device_flops / 989e12
    assert made.step_seconds == max(made.seconds.values()) == made.seconds[made.limit]
    assert made.mfu == pytest.approx(made.flops / (8 * device.flops) / made.step_seconds)
    # The step's products are three times the forward ones, but for those of which no gradient is asked.
    assert 0.7 * made.flops < 8 * made.device_flops < 1.3 * made.flops


@pytest.mark.parametrize(
    "changes, limit",
    [
        ({"flops": 1e6}, "compute"),
        ({"hbm_bandwidth": 1.0}, "memory"),
        ({"link_bandwidth": 1.0}, "links"),
        ({"network_bandwidth": 1.0}, "network"),
    ],
)
def test_the_limiting_resource_is_named(made, changes, limit):
    machine = plan.Machine.of(H100, 8, **changes)
    device = machine.accelerator
    sent = {
        over: sum(row.sent_bytes for row in made.talk if row.over == over) for over in ("links", "network")
    }
    assert plan.bounds(device, made.device_flops, made.memory_traffic, sent) == {
        "compute": made.device_flops / device.flops,
        "memory": made.memory_traffic / device.hbm_bandwidth,
        "links": sent["links"] / device.link_bandwidth,
        "network": sent["network"] / device.network_bandwidth,
    }
    seconds = plan.bounds(device, made.device_flops, made.memory_traffic, sent)
    slow = dataclasses.replace(made, machine=machine, seconds=seconds)
    assert slow.limit == limit
    assert f"limited by {limit}: at best" in plan.describe(slow)


def total_at(file, batch_size: int) -> int:
    setup = Session.of(load(file, [*SPLIT, f"data.batch_size={batch_size}"]))
    compiled = memory.compile_step(setup)
    return memory.temporary_bytes(compiled) + compiled.memory_analysis().argument_size_in_bytes


@pytest.mark.once
def test_the_largest_batch_fills_the_memory(file, made):
    """Compiled at the answer, it is within a few hundredths of it, although each row is compared with all."""
    hbm_bytes = 20 * made.memory.total
    largest = memory.largest_batch(Session.of(load(file, SPLIT)), made.memory, hbm_bytes)
    assert largest % 8 == 0 and 256 < largest < 20 * 256
    assert total_at(file, largest) == pytest.approx(hbm_bytes, rel=0.04)


def test_a_memory_too_small_is_said(file, made):
    setup = Session.of(load(file, SPLIT))
    assert memory.largest_batch(setup, made.memory, made.memory.state) is None
    small = dataclasses.replace(made.machine, hbm_bytes=30 * 2**10)
    told = plan.describe(dataclasses.replace(made, machine=small, largest_batch=None))
    assert "of 30.00 KiB: DOES NOT FIT; not even one row a device fits" in told


@pytest.mark.once
def test_the_verb_prints_words(file, capsys):
    assert main(["plan", str(file), *SPLIT, "--devices", "8", "--node-size", "4"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"tiny on 8 x {H100}: mesh data 2 x fsdp 4")
    assert "the largest batch that fits is about" in printed and "limited by " in printed
    assert "all-gather over fsdp" in printed


@pytest.mark.once
def test_512_devices_are_simulated(file):
    """In a process of its own, as a user does it."""
    command = [sys.executable, "-m", "mmjax", "plan", str(file), "--devices", "512", "--json"]
    command += ["mesh.fsdp=8", "rules=FSDP", "data.batch_size=1024"]
    command += ["--device", "TPU v5", "--peak", "1e12", "--bandwidth", "7", "--hbm", "2GB"]
    command += ["--node-size", "8"]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["machine"]["accelerator"]["flops"] == 1e12
    assert found["machine"]["accelerator"]["link_bandwidth"] == 7e9
    assert found["machine"]["hbm_bytes"] == 2_000_000_000 and found["fits"]
    assert found["seconds"][found["limit"]] == found["step_seconds"]
    assert {row["over"] for row in found["talk"]} == {"links", "network"}
    assert found["mesh"]["data"] == 64 and found["batch_size"] == 1024
    # 8 x 8 pixels and a mask; tokens, mask, segments and words of 6 positions: two rows of each.
    assert found["memory"]["batch"] == 2 * ((8 * 8 * 3 * 4 + 1) + 6 * (4 + 1 + 4 + 4))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--devices", "8", "--hbm", "80"], "expected a size such as 80GiB"),
        (["--devices", "8", "--hbm", "lots"], "expected a size such as 80GiB or 80GB, found 'lots'"),
        (["--devices", "8", "--hbm", "0GiB"], "expected a size such as 80GiB or 80GB, found '0GiB'"),
        (["--devices", "0"], "expected a number of at least 1, found '0'"),
        (["--devices", "many"], "expected a number of at least 1, found 'many'"),
        (["--devices", "8", "--bandwidth", "-1"], "expected a number above 0, such as 450 or 9.89e14, found"),
        ([], "the following arguments are required: --devices"),
    ],
)
def test_bad_options_are_refused(file, capsys, options, message):
    with pytest.raises(SystemExit) as refused:
        main(["plan", str(file), *options])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--device", "abacus"], r"expected a device among \['NVIDIA A100.*found 'abacus'"),
        (["mesh.fsdp=3", "data.batch_size=6"], r"needs data 2 x fsdp 3 = 6 devices and JAX sees 8"),
        (["data.batch_size=12"], "expected data.batch_size to be a multiple of 8, found 12"),
        (["num_steps=0"], "num_steps expects an integer of at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(file, capsys, arguments, message):
    assert main(["plan", str(file), *arguments, "--devices", "8"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_more_devices_than_jax_started_with_are_refused(file, capsys):
    assert main(["plan", str(file), "--devices", "16", "data.batch_size=16"]) == 2
    assert "expected to simulate 16 devices, found that JAX has started with 8" in capsys.readouterr().err


def test_every_array_that_does_not_divide_is_listed(tmp_path, capsys):
    file = tiny.write(tmp_path, {"WIDTH = 16": "WIDTH = 20"})
    assert main(["plan", str(file), "mesh.fsdp=8", "rules=FSDP", "--devices", "8"]) == 2
    lines = capsys.readouterr().err.splitlines()
    uneven = [line for line in lines if "not divisible by 8" in line]
    assert lines[0] == f"mmjax: {len(uneven)} arrays do not fit the mesh:"
    for array in ("encoders_text/table", "heads_image/linear/kernel", "encoders_image/trunk/layers/mlp/up"):
        assert any(array in line and "['fsdp']" in line for line in uneven), array
    assert not any("opt_state" in line for line in uneven)
    assert len({line.split(" has shape")[0] for line in uneven}) == len(uneven) > 10
