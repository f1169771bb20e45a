"""`mmjax train | eval | describe | plan | checkpoints | export | doctor`. Each verb imports what it needs.

Exit codes: 0 done; 2 bad usage, configuration or data; 3 training stopped on a non-finite value; 75 stopped
by a signal after saving (the same command resumes); 130 interrupted immediately. `--debug` also shows the
traceback of an error. Under a launcher every process runs the same command, and process 0 prints.
"""

import argparse
import dataclasses
import io
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from mmjax.cli import environment
from mmjax.cli.arguments import make_parser
from mmjax.errors import (
    InputError,
    Interrupted,
    NonFiniteError,
    SharedInputError,
    one_line,
    refuse_missing_file,
)
from mmjax.run.goodput import Goodput, process_age
from mmjax.run.signals import StopSignal

# OSError: a full disk, a name that is too long, a folder that may not be read.
EXIT_CODES = {InputError: 2, OSError: 2, NonFiniteError: 3, Interrupted: 75}
# Raised by all processes of a run at the same step. After any other error, processes may wait for each other.
RAISED_BY_ALL = (SharedInputError, NonFiniteError, Interrupted)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code. argparse itself exits with 2 on bad usage."""
    try:
        environment.refuse_closed_streams()
    except InputError as error:
        environment.say(f"mmjax: {error}")
        return 2
    parser = make_parser()
    # Overrides may stand before or after options, which argparse's "*" alone does not allow.
    arguments, rest = parser.parse_known_args(argv)
    takes_overrides = "overrides" in arguments
    unknown = [text for text in rest if text.startswith("-") or "=" not in text or not takes_overrides]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        arguments.overrides += rest
    _set_up_streams(arguments.debug)
    _allow_more_devices_than_cores()
    try:
        VERBS[arguments.verb](arguments)
        sys.stdout.flush()  # inside `try`, so that its errors are caught
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        environment.discard_output()
        return 0
    except tuple(EXIT_CODES) as error:
        if arguments.debug:
            logging.getLogger("mmjax").exception("%s", type(error).__name__)
        message = str(error)
        if isinstance(error, OSError):
            message = (
                f"{one_line(message)}. Nothing that was saved is lost: correct this, and run the same command"
            )
        environment.say(f"mmjax: {message}")
        environment.discard_output()
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        if not isinstance(error, RAISED_BY_ALL):
            _exit_immediately(code)
        return code
    except KeyboardInterrupt:  # in any verb but train, or a second SIGINT
        environment.say("mmjax: interrupted")
        _exit_immediately(130)
        return 130
    except Exception:
        _exit_immediately(1, traceback.format_exc())
        raise
    return 0


def _exit_immediately(code: int, message: str = "") -> None:
    """Ends the process without waiting for the other processes of the run, if there are any."""
    if "mmjax.cluster.processes" in sys.modules:
        sys.modules["mmjax.cluster.processes"].exit_immediately(code, message)


def _set_up_streams(debug: bool) -> None:
    """Sets up logging and the output streams."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(environment.LogFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("mmjax").setLevel(logging.INFO)
    # Orbax warns about choices that mmjax makes on purpose; errors in its threads are raised in this one too.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR if debug else logging.CRITICAL)
    if not debug:
        _silence_abandoned_writes()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not a notebook's stream
            stream.reconfigure(errors="backslashreplace")  # paths may hold bytes that are not UTF-8


def _silence_abandoned_writes() -> None:
    """Hides the errors of writes that a failed save abandons: hundreds, each with a traceback.

    TensorStore continues them after the event loop that waited for them has closed. The error of the save
    itself is reported once.
    """
    previous_hook = sys.unraisablehook
    if previous_hook.__module__ == __name__:  # set by an earlier call of main()
        return

    def report(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous_hook(unraisable)

    sys.unraisablehook = report
    # The coroutines are Orbax's: mmjax has none.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _allow_more_devices_than_cores() -> None:
    """Sets NPROC, so that XLA has enough threads where the CPU stands for more devices than it has cores.

    In a collective each device blocks a thread until all devices arrive. XLA makes one thread per core, so
    with fewer cores than devices they would wait for ever. NPROC is read when JAX is imported.
    """
    num_devices = os.environ.get("JAX_NUM_CPU_DEVICES", "")
    if num_devices.isdecimal() and int(num_devices) > (os.cpu_count() or 1):
        os.environ.setdefault("NPROC", str(4 * int(num_devices)))  # a device may run several programs at once


def train(arguments: argparse.Namespace) -> None:
    """mmjax train."""
    refuse_missing_file(arguments.experiment)
    goodput = Goodput(age=process_age())
    with StopSignal() as stop:  # before the slow imports, so that a signal during them ends the run cleanly
        environment.import_jax()
        from mmjax.cli import tables
        from mmjax.cluster import processes
        from mmjax.experiment import load
        from mmjax.run import locations, loop

        _log_rank(processes.initialize())
        with processes.fail_together():
            experiment = load(arguments.experiment, arguments.overrides)  # its file may configure devices
            environment.check_devices()
            if arguments.data is not None:
                experiment = locations.moved(experiment, arguments.data)
        run_dir = arguments.run_dir or Path("runs") / experiment.name
        results = loop.run(experiment, run_dir, stop, goodput=goodput, accept_data=arguments.accept_data)
    if processes.is_process_zero():
        print(tables.results_table(results))
        print(goodput.summary())
        print(f"run: {run_dir}")


def _log_rank(launch) -> None:
    """With several processes, logs the launch and prefixes every log line with the process's number."""
    from mmjax.cluster import processes

    if launch.num_processes == 1:
        return
    rank = f"[{launch.process_id}/{launch.num_processes}]"
    for handler in logging.getLogger().handlers:
        handler.setFormatter(environment.LogFormatter(f"{rank} %(levelname)s: %(message)s"))
    logging.getLogger("mmjax").info("%s", processes.describe(launch))


def evaluate(arguments: argparse.Namespace) -> None:
    """mmjax eval."""
    from mmjax.run.folder import RunFolder, without_nan

    RunFolder(arguments.run_dir)  # raises if the path is no run, before JAX is imported

    environment.check_devices()
    from mmjax.cli import tables
    from mmjax.run.handle import evaluate_run

    experiment, overrides = None, arguments.overrides
    if arguments.experiment_file is not None:
        from mmjax.experiment import load

        trained_with = [text for text in overrides if not text.startswith("evals.")]
        experiment = load(arguments.experiment_file, trained_with)
        overrides = [text for text in overrides if text not in trained_with]
    results = evaluate_run(arguments.run_dir, arguments.data, overrides, experiment)
    if arguments.json:
        print(json.dumps({name: without_nan(metrics) for name, metrics in results.items()}))
    else:
        print(tables.results_table(results))


def checkpoints(arguments: argparse.Namespace) -> None:
    """mmjax checkpoints."""
    from mmjax.checkpoint import checksums
    from mmjax.cli import tables
    from mmjax.run.folder import RunFolder

    folder = RunFolder(arguments.run_dir).checkpoints
    if arguments.verify:
        from mmjax.checkpoint.readback import list_verified

        entries = list_verified(folder)
    else:
        entries = checksums.list_checkpoints(folder, verify=False)
    unfinished = checksums.list_unfinished(folder)
    if arguments.json:
        rows = [dataclasses.asdict(entry) for entry in entries]
        print(json.dumps({"verified": arguments.verify, "checkpoints": rows, "unfinished": unfinished}))
    else:
        print(tables.checkpoints_table(entries, unfinished, verified=arguments.verify), end="")
    damaged = [str(entry.step) for entry in entries if entry.fault]
    if damaged:
        whole = max((entry.step for entry in entries if not entry.fault), default=None)
        then = "no other is left" if whole is None else f"training and eval would use step {whole}"
        raise InputError(
            f"expected undamaged checkpoints in {folder}, found damage in step {', '.join(damaged)}: {then}. "
            "Restore it from a copy, or delete it"
        )


def describe(arguments: argparse.Namespace) -> None:
    """mmjax describe."""
    is_run = arguments.experiment.is_dir()
    if not is_run:
        refuse_missing_file(arguments.experiment)
    environment.check_devices()
    from mmjax.cli.describe import describe, describe_run
    from mmjax.experiment import load

    if is_run:
        text = describe_run(arguments.experiment, arguments.experiment_file, arguments.overrides)
    else:
        text = describe(load(arguments.experiment, arguments.overrides))
    print(text, end="")


def plan(arguments: argparse.Namespace) -> None:
    """mmjax plan."""
    refuse_missing_file(arguments.experiment)
    # XLA's partitioner warns about each choice that the plan counts.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    environment.import_jax()
    from mmjax.analysis.plan import Machine, make_plan, simulate_devices
    from mmjax.cli.plan import format_plan
    from mmjax.experiment import load

    machine = Machine.from_data_sheet(
        arguments.device,
        arguments.devices,
        arguments.hbm,
        flops=arguments.peak,
        hbm_bandwidth=arguments.hbm_bandwidth and 1e9 * arguments.hbm_bandwidth,
        link_bandwidth=arguments.bandwidth and 1e9 * arguments.bandwidth,
        network_bandwidth=arguments.slow_bandwidth and 1e9 * arguments.slow_bandwidth,
        node_size=arguments.node_size,
    )
    experiment = load(arguments.experiment, arguments.overrides)
    estimate = make_plan(experiment, machine, simulate_devices(arguments.devices))
    print(json.dumps(estimate.to_json()) if arguments.json else format_plan(estimate).rstrip())


def export(arguments: argparse.Namespace) -> None:
    """mmjax export."""
    from mmjax.run.folder import RunFolder

    RunFolder(arguments.run_dir)

    environment.check_devices()
    from mmjax.run.export import export

    num_arrays, num_parameters, step = export(
        arguments.run_dir, arguments.file, step=arguments.step, overwrite=arguments.force
    )
    print(f"{arguments.file}: {num_parameters:,} parameters in {num_arrays} arrays, of step {step}")


def doctor(arguments: argparse.Namespace) -> None:
    """mmjax doctor."""
    environment.import_jax()
    from mmjax.cli import doctor as examine
    from mmjax.cluster import processes

    facts = examine.collect_info(arguments.data)
    faults = [finding.found for finding in examine.diagnose(facts) if finding.fault]
    print(examine.to_json(facts) if arguments.json else examine.format_report(facts), flush=True)
    with processes.fail_together():
        if faults:
            raise InputError(
                f"expected no fault on {facts.host}, found {len(faults)}: each is listed with its remedy"
            )


VERBS = {
    "train": train,
    "eval": evaluate,
    "describe": describe,
    "plan": plan,
    "checkpoints": checkpoints,
    "export": export,
    "doctor": doctor,
}
