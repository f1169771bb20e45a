"""The argparse parser of `mmjax`: verbs, options and the types of their values."""

import argparse
import math
import re
import sys
from pathlib import Path
from typing import NoReturn

from mmjax import __version__
from mmjax.cli import environment
from mmjax.errors import excerpt, one_line


class _Parser(argparse.ArgumentParser):
    """Escapes control characters in the text of the user that argparse's messages repeat, and cuts it."""

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message, limit=500))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Ends the process, as after --help: with an error if the help could not be written."""
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            environment.discard_output()
        except OSError as error:
            environment.say(f"mmjax: {error}")
            environment.discard_output()
            status = 2
        super().exit(status, message)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="mmjax",
        description="Pretrain models that read text, images and audio together.",
        epilog="Exit codes: 0 done; 2 bad usage, configuration or data; 3 stopped on a non-finite value; "
        "75 stopped by a signal after saving: the same command resumes.",
    )
    parser.add_argument("--version", action="version", version=f"mmjax {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    verb = verbs.add_parser("train", help="train, evaluate and report; the same command again resumes")
    _add_experiment(verb)
    verb.add_argument("--run-dir", metavar="DIR", type=Path, help="default: runs/<experiment's name>")
    verb.add_argument("--data", metavar="FILE_OR_DIR", help="where the experiment's data were moved to")
    verb.add_argument(
        "--accept-data", action="store_true", help="resume with data that are not those of the run so far"
    )

    verb = verbs.add_parser("eval", help="run the experiment's evaluations on a run's newest checkpoint")
    verb.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    verb.add_argument("overrides", metavar="evals.NAME.field=value", nargs="*")
    verb.add_argument("--data", metavar="FILE_OR_DIR", help="evaluate on another shard in the same layout")
    _add_experiment_file(verb)
    _add_json(verb)

    verb = verbs.add_parser("describe", help="print an experiment: parameters, FLOPs, views, every field")
    _add_experiment(verb, metavar="EXPERIMENT.py|RUN_DIR")
    _add_experiment_file(verb)

    verb = verbs.add_parser("checkpoints", help="list a run's checkpoints: step, size, health")
    verb.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    verb.add_argument(
        "--verify", action="store_true", help="compare the sha256 of every file, and open every array"
    )
    _add_json(verb)

    _add_plan(
        verbs.add_parser("plan", help="estimate memory and step time on devices that are not available")
    )

    verb = verbs.add_parser("export", help="write a run's parameters to a safetensors file")
    verb.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    verb.add_argument("file", metavar="FILE.safetensors", type=Path)
    verb.add_argument("--step", metavar="N", type=_step, help="step of the checkpoint (default: the newest)")
    verb.add_argument("--force", action="store_true", help="overwrite an existing file")

    verb = verbs.add_parser("doctor", help="check this machine, JAX and the launcher, and suggest remedies")
    verb.add_argument("--data", metavar="FILE_OR_DIR", type=Path, help="measure how fast it can be read")
    verb.add_argument("--json", action="store_true", help="one JSON object per process, on one line")

    for verb in verbs.choices.values():
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_experiment(verb: argparse.ArgumentParser, metavar: str = "EXPERIMENT.py") -> None:
    verb.add_argument("experiment", metavar=metavar, type=Path)
    verb.add_argument("overrides", metavar="path.to.field=value", nargs="*")


def _add_experiment_file(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--experiment",
        metavar="FILE",
        dest="experiment_file",
        type=Path,
        help="the run's experiment, if it uses classes that are not mmjax's",
    )


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="make the last line of output one JSON object")


def _add_plan(verb: argparse.ArgumentParser) -> None:
    _add_experiment(verb)
    verb.add_argument(
        "--devices", metavar="N", type=_count, required=True, help="number of GPUs or TPU chips"
    )
    h100 = "NVIDIA H100 80GB HBM3"
    verb.add_argument(
        "--device", metavar="NAME", default=h100, help="name of a data sheet, such as a100-80gb (%(default)s)"
    )
    verb.add_argument("--hbm", metavar="SIZE", type=_bytes, help="memory of a device, such as 80GiB")
    verb.add_argument("--peak", metavar="FLOPS", type=_positive, help="peak FLOP/s of a device")
    verb.add_argument("--hbm-bandwidth", metavar="GB/s", type=_positive, help="of a device's memory")
    verb.add_argument("--bandwidth", metavar="GB/s", type=_positive, help="of a device within its node")
    verb.add_argument("--slow-bandwidth", metavar="GB/s", type=_positive, help="of a device between nodes")
    verb.add_argument("--node-size", metavar="N", type=_count, help="devices per node")
    _add_json(verb)


MAX_DEVICES = 4096  # `plan` simulates each of them


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MAX_DEVICES:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MAX_DEVICES}, found {excerpt(text)}")
    return int(text)


def _step(text: str) -> int:
    if not text.isdecimal() or len(text) > 10:
        raise argparse.ArgumentTypeError(f"expected the step of a checkpoint, found {excerpt(text)}")
    return int(text)


def _bytes(text: str) -> int:
    """
    >>> _bytes("80GiB"), _bytes("1.5 GB")
    (85899345920, 1500000000)
    """
    units = {f"{p}iB": 2 ** (10 * i) for i, p in enumerate("KMGT", 1)}
    units |= {f"{p}B": 10 ** (3 * i) for i, p in enumerate("KMGT", 1)}
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([KMGT]i?B)", text)
    size = int(float(match[1]) * units[match[2]]) if match else 0
    if not 0 < size <= 2**50:
        raise argparse.ArgumentTypeError(f"expected a size such as 80GiB or 80GB, found {excerpt(text)}")
    return size


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1e24:
        raise argparse.ArgumentTypeError(
            f"expected a number above 0, such as 450 or 9.89e14, found {excerpt(text)}"
        )
    return number
