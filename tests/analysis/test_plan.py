"""`mmjax plan`: its memory, collectives and times add up, and bad input is rejected."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import pytest
import tiny

from mmjax.analysis import memory
from mmjax.analysis.collectives import find_collectives
from mmjax.analysis.plan import Machine, Plan, make_plan, min_seconds, sent_bytes_by_network
from mmjax.cli.main import main
from mmjax.cli.plan import format_plan
from mmjax.experiment import load
from mmjax.run.session import Session

H100 = "NVIDIA H100 80GB HBM3"
SHARDED = ["mesh.data=2", "mesh.fsdp=4", "rules=FSDP", "data.batch_size=256"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The experiment's file. Its data are deleted, because a plan reads none."""
    folder = tmp_path_factory.mktemp("plan")
    file = tiny.write(folder)
    (folder / "colours.npz").unlink()
    return file


@pytest.fixture(scope="module")
def sharded_plan(file) -> Plan:
    machine = Machine.from_data_sheet(H100, 8, node_size=4)
    return make_plan(load(file, SHARDED), machine, jax.devices())


def test_memory_is_that_of_xlas_memory_analysis(file, sharded_plan):
    """State and batch are XLA's arguments, and the live arrays by part add up to XLA's temporaries."""
    compiled = memory.compile_step(Session.of(load(file, SHARDED)))
    stats = compiled.memory_analysis()
    # JAX drops unused arguments from the program, here the word indices and the mask of the records' numbers.
    # They use memory nevertheless.
    unused = 256 // 8 * (6 * 4 + 1)
    assert sharded_plan.memory.state + sharded_plan.memory.batch == stats.argument_size_in_bytes + unused
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    assert sharded_plan.memory.temporaries == stats.temp_size_in_bytes + results
    groups = sharded_plan.memory.groups.values()
    live = sum(group.get(column, 0) for group in groups for column in ("forward", "backward"))
    assert live == pytest.approx(sharded_plan.memory.temporaries, rel=0.05)


@pytest.mark.once
def test_memory_is_listed_by_part_of_the_model(file, sharded_plan):
    groups = sharded_plan.memory.groups
    assert list(groups)[:4] == ["encoders image", "encoders text", "heads image", "heads text"]
    # The kernel of a head, 16 x 8 in float32, is sharded four ways. The optimizer has two moments.
    assert groups["heads image"]["parameters"] == 4 * 16 * 8 // 4
    assert groups["heads image"]["optimizer"] == 2 * groups["heads image"]["gradients"] == 2 * 128
    assert groups["encoders text"]["forward"] > 0


@pytest.mark.once
def test_without_rules_parameters_are_replicated_and_half_precision_has_a_note(file, sharded_plan):
    half = load(file, ["model.encoders.text.trunk.dtype=bfloat16"])
    replicated = make_plan(half, Machine.from_data_sheet(H100, 8), jax.devices())
    assert replicated.memory.groups["heads image"]["parameters"] == 4 * 16 * 8
    note = "note: compiled for CPUs, which compute in 32 bits"
    assert note in format_plan(replicated) and note not in format_plan(sharded_plan)


@pytest.mark.once
def test_half_precision_exchanges_half_the_bytes_by_the_same_collectives(file):
    """Also where XLA for CPU widens them: FSDP's gradients are reduce-scattered in either type."""
    sent = {}
    for dtype in ("float32", "bfloat16"):
        trunks = [f"model.encoders.{stream}.trunk.dtype={dtype}" for stream in ("image", "text")]
        session = Session.of(load(file, [*SHARDED, *trunks]))
        program = memory.compile_step(session).as_text()
        sent[dtype] = {
            (c.kind, c.source): c.total_bytes
            for c in find_collectives(program, session.mesh.shape)
            if "trunk" in c.source and "mlp" in c.source and c.axes == ("fsdp",) and c.kind != "all-gather"
        }
    assert {kind for kind, _ in sent["float32"]} == {"reduce-scatter"}
    assert sum(sent["bfloat16"].values()) == sum(sent["float32"].values()) / 2
    assert {kind for kind, _ in sent["bfloat16"]} == {"reduce-scatter"}


def test_collectives_are_listed_by_axis_and_network(sharded_plan):
    traffic = sharded_plan.collective_traffic
    networks = {row.axes: row.network for row in traffic}
    assert networks[("fsdp",)] == "links"  # the four devices along fsdp are in one node
    assert networks[("data",)] == networks[("data", "fsdp")] == "network"
    gathered = next(row for row in traffic if (row.kind, row.axes) == ("all-gather", ("fsdp",)))
    assert gathered.num_arrays >= 2 and gathered.sent_bytes > 0 and "encoders" in gathered.largest_source
    kinds = {row.kind for row in traffic if row.axes == ("fsdp",)}
    assert "reduce-scatter" in kinds


def test_times_are_those_at_the_peak_rates_of_the_data_sheet(sharded_plan):
    device = sharded_plan.machine.accelerator
    sent = sum(row.sent_bytes for row in sharded_plan.collective_traffic if row.network == "network")
    assert sharded_plan.seconds["network"] == pytest.approx(sent / 50e9)
    assert sharded_plan.seconds["compute"] == sharded_plan.device_flops / 989e12
    assert (
        sharded_plan.step_seconds
        == max(sharded_plan.seconds.values())
        == sharded_plan.seconds[sharded_plan.bottleneck]
    )
    assert sharded_plan.mfu == pytest.approx(
        sharded_plan.flops / (8 * device.flops) / sharded_plan.step_seconds
    )
    # A step has three times the products of the forward pass, without those that need no gradient.
    assert 0.7 * sharded_plan.flops < 8 * sharded_plan.device_flops < 1.3 * sharded_plan.flops


@pytest.mark.parametrize(
    "changes, bottleneck",
    [
        ({"flops": 1e6}, "compute"),
        ({"hbm_bandwidth": 1.0}, "memory"),
        ({"link_bandwidth": 1.0}, "links"),
        ({"network_bandwidth": 1.0}, "network"),
    ],
)
def test_the_bottleneck_is_named(sharded_plan, changes, bottleneck):
    machine = Machine.from_data_sheet(H100, 8, **changes)
    device = machine.accelerator
    sent = sent_bytes_by_network(sharded_plan.collective_traffic)
    seconds = min_seconds(device, sharded_plan.device_flops, sharded_plan.memory, sent)
    assert seconds == {
        "compute": sharded_plan.device_flops / device.flops,
        "memory": (2 * sharded_plan.memory.state + sharded_plan.memory.batch) / device.hbm_bandwidth,
        "links": sent["links"] / device.link_bandwidth,
        "network": sent["network"] / device.network_bandwidth,
    }
    slow = dataclasses.replace(sharded_plan, machine=machine, seconds=seconds)
    assert slow.bottleneck == bottleneck
    assert f"limited by {bottleneck}: at best" in format_plan(slow)


def total_bytes_at(file, batch_size: int) -> int:
    session = Session.of(load(file, [*SHARDED, f"data.batch_size={batch_size}"]))
    compiled = memory.compile_step(session)
    return memory.temporary_bytes(compiled) + compiled.memory_analysis().argument_size_in_bytes


@pytest.mark.once
def test_the_largest_batch_fills_the_memory(file, sharded_plan):
    """Compiled at the largest batch, the step fills the memory to 4 %, although it compares all pairs."""
    hbm_bytes = 20 * sharded_plan.memory.total_bytes
    largest = memory.largest_batch(Session.of(load(file, SHARDED)), sharded_plan.memory, hbm_bytes)
    assert largest % 8 == 0 and 256 < largest < 20 * 256
    assert total_bytes_at(file, largest) == pytest.approx(hbm_bytes, rel=0.04)


def test_a_memory_too_small_for_one_row_is_reported(file, sharded_plan):
    session = Session.of(load(file, SHARDED))
    assert memory.largest_batch(session, sharded_plan.memory, sharded_plan.memory.state) is None
    small = dataclasses.replace(sharded_plan.machine, hbm_bytes=30 * 2**10)
    text = format_plan(dataclasses.replace(sharded_plan, machine=small, largest_batch=None))
    assert "of 30.00 KiB: DOES NOT FIT; not even one row per device fits" in text


@pytest.mark.once
def test_the_verb_prints_the_plan_as_text(file, capsys):
    assert main(["plan", str(file), *SHARDED, "--devices", "8", "--node-size", "4"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"tiny on 8 x {H100}: mesh data 2 x fsdp 4")
    assert "the largest batch that fits is about" in printed and "limited by " in printed
    assert "all-gather over fsdp" in printed


@pytest.mark.once
def test_512_devices_are_simulated(file):
    """In a new process, as JAX's number of devices is fixed once it has started."""
    command = [sys.executable, "-m", "mmjax", "plan", str(file), "--devices", "512", "--json"]
    command += ["mesh.fsdp=8", "rules=FSDP", "data.batch_size=1024"]
    command += ["--device", "TPU v5", "--peak", "1e12", "--bandwidth", "7", "--hbm", "2GB"]
    command += ["--node-size", "8"]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["machine"]["accelerator"]["flops"] == 1e12
    assert printed["machine"]["accelerator"]["link_bandwidth"] == 7e9
    assert printed["machine"]["hbm_bytes"] == 2_000_000_000 and printed["fits"]
    assert printed["seconds"][printed["limit"]] == printed["step_seconds"]
    assert {row["over"] for row in printed["talk"]} == {"links", "network"}
    assert printed["mesh"]["data"] == 64 and printed["batch_size"] == 1024
    # Two rows of 8 x 8 pixels and a mask, of tokens, mask, token types and words at 6 positions, and of the
    # number of the record and a mask.
    assert printed["memory"]["batch"] == 2 * ((8 * 8 * 3 * 4 + 1) + 6 * (4 + 1 + 4 + 4) + (4 + 1))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--devices", "8", "--hbm", "80"], "expected a size such as 80GiB"),
        (["--devices", "8", "--hbm", "lots"], "expected a size such as 80GiB or 80GB, found 'lots'"),
        (["--devices", "8", "--hbm", "0GiB"], "expected a size such as 80GiB or 80GB, found '0GiB'"),
        (["--devices", "0"], "expected a number from 1 to 4096, found '0'"),
        (["--devices", "many"], "expected a number from 1 to 4096, found 'many'"),
        (["--devices", "8", "--bandwidth", "-1"], "expected a number above 0, such as 450 or 9.89e14, found"),
        ([], "the following arguments are required: --devices"),
    ],
)
def test_bad_options_are_rejected(file, capsys, options, message):
    with pytest.raises(SystemExit) as exit:
        main(["plan", str(file), *options])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--device", "abacus"], r"expected a device among \['NVIDIA A100.*found 'abacus'"),
        (["mesh.fsdp=3", "data.batch_size=6"], r"needs data 2 x fsdp 3 = 6 devices and JAX sees 8"),
        (["data.batch_size=12"], "expected data.batch_size to be a multiple of 8, found 12"),
        (["num_steps=0"], "'num_steps' expects int from 1"),
    ],
)
def test_experiments_that_do_not_fit_are_rejected(file, capsys, arguments, message):
    assert main(["plan", str(file), *arguments, "--devices", "8"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_more_devices_than_jax_started_with_are_rejected(file, capsys):
    assert main(["plan", str(file), "--devices", "16", "data.batch_size=16"]) == 2
    assert "expected to simulate 16 devices, found that JAX has started with 8" in capsys.readouterr().err


def test_every_array_that_the_mesh_does_not_divide_is_listed(tmp_path, capsys):
    file = tiny.write(tmp_path, {"WIDTH = 16": "WIDTH = 20"})
    assert main(["plan", str(file), "mesh.fsdp=8", "rules=FSDP", "--devices", "8"]) == 2
    lines = capsys.readouterr().err.splitlines()
    uneven = [line for line in lines if "not divisible by 8" in line]
    assert lines[0] == f"mmjax: {len(uneven)} arrays do not fit the mesh:"
    for array in ("encoders_text/table", "heads_image/linear/kernel", "encoders_image/trunk/layers/mlp/up"):
        assert any(array in line and "['fsdp']" in line for line in uneven), array
    assert not any("opt_state" in line for line in uneven)
    assert len({line.split(" has shape")[0] for line in uneven}) == len(uneven) > 10
