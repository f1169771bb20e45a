"""``mmjax train | eval | describe | plan | checkpoints | export | doctor``. Heavy imports are in the verbs.

Exit codes: 0 done; 2 bad usage, configuration or data; 3 training stopped on a non-finite value; 75 stopped
by a signal after saving (the same command goes on); 130 interrupted at once. ``--debug`` shows the
traceback of a refusal. Under a launcher every process runs the same command, and the first one speaks.
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

from mmjax.cli.arguments import make_parser
from mmjax.errors import InputError, Interrupted, NonFiniteError, SharedRefusal
from mmjax.run.goodput import Goodput, process_age
from mmjax.run.signals import StopSignal

# OSError: a full disk, a name that is too long, a folder that may not be read.
EXIT_CODES = {InputError: 2, OSError: 2, NonFiniteError: 3, Interrupted: 75}
# Raised by all of a run's processes at the same step; after any other error the others may wait for this one.
KNOWN_TO_ALL = (SharedRefusal, NonFiniteError, Interrupted)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code. argparse itself exits with 2 on bad usage."""
    parser = make_parser()
    # Overrides may stand before or after options, which argparse's "*" alone does not allow.
    arguments, rest = parser.parse_known_args(argv)
    stray = [text for text in rest if text.startswith("-") or "=" not in text or "overrides" not in arguments]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    if rest:
        arguments.overrides += rest
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("mmjax").setLevel(logging.INFO)
    # Orbax warns about choices that mmjax makes on purpose, and what fails in its threads is raised here too.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR if arguments.debug else logging.CRITICAL)
    if not arguments.debug:
        _mute_lost_writes()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is another
            stream.reconfigure(errors="backslashreplace")  # paths may hold bytes that are no text
    _thread_for_each_device()
    try:
        VERBS[arguments.verb](arguments)
        sys.stdout.flush()  # here, so that what goes wrong with it is caught
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 0
    except tuple(EXIT_CODES) as error:
        if arguments.debug:
            logging.getLogger("mmjax").exception("%s", type(error).__name__)
        hint = (
            ". Nothing that was saved is lost: mend this, and run the same command"
            if isinstance(error, OSError)
            else ""
        )
        print(f"mmjax: {error}{hint}", file=sys.stderr)
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        if not isinstance(error, KNOWN_TO_ALL):
            _leave(code)
        return code
    except KeyboardInterrupt:  # of a verb that saves nothing, or a second one
        print("mmjax: interrupted", file=sys.stderr)
        _leave(130)
        return 130
    except Exception:
        _leave(1, traceback.format_exc())
        raise
    return 0


def _leave(code: int, words: str = "") -> None:
    """Ends the process without waiting for the run's others, if there are any; `words` are its last."""
    if "mmjax.cluster.processes" in sys.modules:
        sys.modules["mmjax.cluster.processes"].leave(code, words)


def _mute_lost_writes() -> None:
    """Says nothing of the writes that a failed save leaves behind: hundreds of them, each with a traceback.

    TensorStore goes on with them, and the event loop that waited is gone. Why the save failed is told once.
    """
    usual = sys.unraisablehook
    if usual.__module__ == __name__:  # main() before this one
        return

    def tell(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            usual(unraisable)

    sys.unraisablehook = tell
    # Orbax's too: mmjax has no coroutine of its own.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _thread_for_each_device() -> None:
    """Lets more CPU devices than there are cores wait for each other.

    XLA has a thread a core, which NPROC overrides. In a collective each device blocks a thread until all have
    come: with fewer threads than devices they never do. It is read when JAX loads.
    """
    wanted = os.environ.get("JAX_NUM_CPU_DEVICES", "")
    if wanted.isdecimal() and int(wanted) > (os.cpu_count() or 1):
        os.environ.setdefault("NPROC", str(4 * int(wanted)))  # a device may run a few programs at once


def train(arguments: argparse.Namespace) -> None:
    goodput = Goodput(age=process_age())

    with (
        StopSignal() as stop
    ):  # imports take seconds: a signal during them ends the run before its first step
        from mmjax.cli import tables
        from mmjax.cluster import processes
        from mmjax.experiment import load
        from mmjax.run import loop

        _introduce(processes.start())
        with processes.fail_together():
            experiment = load(arguments.experiment, arguments.overrides)
        run_dir = arguments.run_dir or Path("runs") / experiment.name
        results = loop.run(experiment, run_dir, stop, goodput=goodput)
    if processes.is_first():
        print(tables.table(results))
        print(goodput.summary())
        print(f"run: {run_dir}")


def _introduce(launch) -> None:
    """Says which process this is, once and then in every line of its log."""
    from mmjax.cluster import processes

    if launch.num_processes == 1:
        return
    rank = f"[{launch.process_id}/{launch.num_processes}]"
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(f"{rank} %(levelname)s: %(message)s"))
    logging.getLogger("mmjax").info("%s", processes.describe(launch))


def evaluate(arguments: argparse.Namespace) -> None:
    from mmjax.run.folder import RunFolder, without_nan

    RunFolder(arguments.run_dir)  # refuses what is no run, before JAX loads

    from mmjax.cli import tables
    from mmjax.run import loop

    results = loop.evaluate(arguments.run_dir, arguments.data)
    if arguments.json:
        print(json.dumps({name: without_nan(metrics) for name, metrics in results.items()}))
    else:
        print(tables.table(results))


def checkpoints(arguments: argparse.Namespace) -> None:
    from mmjax.checkpoint import checksums
    from mmjax.cli import tables
    from mmjax.run.folder import RunFolder

    folder = RunFolder(arguments.run_dir).checkpoints
    entries = checksums.entries(folder, verify=arguments.verify)
    unfinished = checksums.unfinished(folder)
    if arguments.json:
        rows = [dataclasses.asdict(entry) for entry in entries]
        print(json.dumps({"verified": arguments.verify, "checkpoints": rows, "unfinished": unfinished}))
    else:
        print(tables.checkpoints(entries, unfinished, verified=arguments.verify), end="")
    damaged = [str(entry.step) for entry in entries if entry.fault]
    if damaged:
        whole = max((entry.step for entry in entries if not entry.fault), default=None)
        then = "no other is left" if whole is None else f"training and eval would go back to step {whole}"
        raise InputError(
            f"expected whole checkpoints in {folder}, found damage in step {', '.join(damaged)}: {then}. Put "
            "a good copy there, or delete it"
        )


def describe(arguments: argparse.Namespace) -> None:
    from mmjax.cli.describe import describe
    from mmjax.experiment import load

    print(describe(load(arguments.experiment, arguments.overrides)), end="")


def plan(arguments: argparse.Namespace) -> None:
    # XLA's partitioner warns of each choice that the plan counts.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    from mmjax.analysis import plan
    from mmjax.experiment import load

    machine = plan.Machine.of(
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
    made = plan.plan(experiment, machine, plan.simulate(arguments.devices))
    print(json.dumps(made.to_json()) if arguments.json else plan.describe(made).rstrip())


def export(arguments: argparse.Namespace) -> None:
    from mmjax.run.folder import RunFolder

    RunFolder(arguments.run_dir)

    from mmjax.run.export import export

    num_arrays, num_parameters, step = export(arguments.run_dir, arguments.file, step=arguments.step)
    print(f"{arguments.file}: {num_parameters:,} parameters in {num_arrays} arrays, of step {step}")


def doctor(arguments: argparse.Namespace) -> None:
    from mmjax.cli import doctor as examine
    from mmjax.cluster import processes

    facts = examine.gather(arguments.data)
    faults = [finding.found for finding in examine.findings(facts) if finding.fault]
    print(examine.to_json(facts) if arguments.json else examine.report(facts), flush=True)
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
