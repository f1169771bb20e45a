"""Run folders: damaged, foreign and oddly named ones."""

import contextlib
import functools
import json
import os
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from corpus.case import Case, command
from mmjax.checkpoint.manager import Checkpoints
from mmjax.run.export import export
from mmjax.run.folder import RunFolder

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests/tiny.py

SCALE = np.arange(12, dtype=np.float32).reshape(3, 4)
ROWS = [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 0.5}]


def state(step: int) -> dict[str, Any]:
    """A state whose arrays are large enough to be in files of their own."""
    model = {"encoders_image": {"kernel": step * SCALE}}
    params = {"model": model, "objectives_pairs": {"t": np.float32(step)}}
    return {"step": np.int32(step), "params": params, "key": np.arange(2, dtype=np.uint32)}


@functools.cache
def made() -> tuple[Path, str]:
    """(a run with checkpoints of steps 2 and 4, its text). The state is made up: nothing is trained."""
    import tiny

    from mmjax.experiment import load, to_text

    keep = tempfile.TemporaryDirectory()
    made.keep = keep  # deleted when the process ends
    folder = Path(keep.name)
    text = to_text(load(tiny.write(folder)))
    with RunFolder.claim(folder / "run", text) as run:
        with contextlib.closing(Checkpoints(run.checkpoints, experiment=text)) as checkpoints:
            for step in (2, 4):
                checkpoints.save(step, state(step))
        for row in ROWS:
            run.write_metrics(row["step"], {"loss": row["loss"]})
            run.write_eval(row["step"], "retrieval", {"R@1": row["loss"]})
        run.check_vocabularies({})
    return folder / "run", text


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(made()[0], folder / "run"))


# Each verb, applied to a run as far as it can go without a model.


def listed(run: Path) -> Any:
    """`mmjax checkpoints --verify`: the verified steps. A damaged one is refused after the table."""
    printed = command("checkpoints", str(run), "--verify", "--json")
    return [entry["step"] for entry in json.loads(printed)["checkpoints"] if not entry["fault"]]


def exported(run: Path) -> int:
    """`export` of the newest undamaged step: the step, if its values are right."""
    from safetensors.numpy import load_file

    _, _, step = export(run, run.parent / "out.safetensors")
    right = np.array_equal(load_file(run.parent / "out.safetensors")["encoders.image.kernel"], step * SCALE)
    return step if right else -1


def opened(run: Path) -> Any:
    from mmjax.run.handle import open_run

    return open_run(run).step


def resumed(run: Path) -> Any:
    """Claims the folder as `mmjax train` does, goes on after step 4, and returns both logs' steps."""
    with RunFolder.claim(run, made()[1]) as folder:
        with contextlib.closing(Checkpoints(folder.checkpoints)) as checkpoints:
            checkpoints.restore_arrays()
        folder.resume(4)
        folder.check_vocabularies({})
        folder.write_metrics(6, {"loss": 0.25})
        folder.write_eval(6, "retrieval", {"R@1": 0.25})
    read = RunFolder(run)
    return [[row["step"] for row in rows] for rows in (read.metrics(), read.evals())]


def evaluated(run: Path) -> Any:
    """Appends a result as `mmjax eval` does; returns {step: score}."""
    with RunFolder(run) as folder:
        folder.write_eval(6, "retrieval", {"R@1": 0.25})
        return {str(step): score for step, score in folder.scores("retrieval", "R@1").items()}


# How a run is damaged.


def put(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content) and None


def add(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes() + content) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()


def replace(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda run: ((run / name).exists() and remove(name)(run), make(run / name))[-1]


def large(run: Path, step: int) -> Path:
    files = (file for file in (run / f"checkpoints/{step}/state").rglob("*") if file.is_file())
    return max(files, key=lambda file: file.stat().st_size)


def flip(run: Path) -> None:
    content = bytearray(large(run, 4).read_bytes())
    content[len(content) // 2] ^= 4
    large(run, 4).write_bytes(content)


def without_arrays(run: Path) -> None:
    """As Orbax left checkpoints in folders with brackets: complete, with the right checksums, unreadable."""
    from mmjax.checkpoint.checksums import write_checksums

    for step in (2, 4):
        folder = run / f"checkpoints/{step}"
        shutil.rmtree(folder / "state/d")
        (folder / "state/manifest.ocdbt").unlink()
        write_checksums(folder)


def foreign(value: dict[str, Any]) -> Callable[[Path], None]:
    """Checkpoints of another program's state."""

    def damage(run: Path) -> None:
        with contextlib.closing(Checkpoints(run / "checkpoints")) as checkpoints:
            checkpoints.save(6, value)

    return damage


def copy_step(name: str) -> Callable[[Path], None]:
    return lambda run: shutil.copytree(run / "checkpoints/4", run / "checkpoints" / name) and None


def link_step(name: str, target: str = "4") -> Callable[[Path], None]:
    return lambda run: (run / "checkpoints" / name).symlink_to(target)


def sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


TEXT = "experiment.txt"
ROW = b'{"step": 6, "loss": 1}'


def both_logs(content: bytes) -> Callable[[Path], None]:
    return lambda run: (add("metrics.jsonl", content)(run), add("evals.jsonl", content)(run))[-1]


LOGS = [[2, 4, 6]] * 2
SCORES = {"2": 1.0, "4": 0.5, "6": 0.25}
FAULT = "expected undamaged checkpoints in .*found damage in step 4: training and eval would use step 2"
NO_ROW = r"JSON object with a step and numbers in .*jsonl, line \d"
# (name, damage, verb, message of the refusal or the expected value)
DAMAGES: list[tuple[str, Callable[[Path], Any], Callable[[Path], Any], Any]] = [
    ("no experiment.txt", remove(TEXT), listed, "found a folder without experiment.txt"),
    ("a folder named experiment.txt", replace(TEXT, os.mkdir), exported, "without experiment.txt"),
    ("a pipe named experiment.txt", replace(TEXT, os.mkfifo), opened, "without experiment.txt"),
    (
        "a dangling link named experiment.txt",
        replace(TEXT, lambda p: p.symlink_to("x")),
        listed,
        "without exp",
    ),
    ("empty experiment.txt", put(TEXT, b""), opened, "experiment.txt"),
    ("half an experiment.txt", lambda run: os.truncate(run / TEXT, 300), opened, "experiment.txt"),
    ("NUL bytes in experiment.txt", add(TEXT, b"\0\0"), opened, "experiment.txt"),
    ("experiment.txt in UTF-16", put(TEXT, "Experiment()".encode("utf-16")), opened, "experiment.txt"),
    ("experiment.txt of 100 MB", replace(TEXT, sparse(10**8)), opened, "at most"),
    ("a program in experiment.txt", put(TEXT, b"__import__('os').getpid()"), opened, "experiment.txt"),
    ("a hundred thousand brackets", put(TEXT, b"(" * 10**5), opened, "experiment.txt"),
    (
        "nine hundred minus signs",
        put(TEXT, b"Experiment(num_steps=" + b"-" * 900 + b"1)"),
        opened,
        "experiment.txt",
    ),
    ("NUL bytes in experiment.txt, resumed", add(TEXT, b"\0"), resumed, "experiment.txt"),
    (
        "another experiment",
        lambda run: put(TEXT, made()[1].replace("seed=0", "seed=1").encode())(run),
        resumed,
        "belongs to another experiment",
    ),
    ("half a row of both logs, resumed", both_logs(b'{"step": 6, "lo'), resumed, LOGS),
    ("half a row of both logs, evaluated", both_logs(b'{"step": 6, "lo'), evaluated, SCORES),
    ("NUL bytes after a power cut", both_logs(b"\0" * 4096), resumed, LOGS),
    (
        "a row without a line break",
        add("evals.jsonl", b'{"step": 5, "eval": "x", "R@1": 1}'),
        evaluated,
        SCORES,
    ),
    ("rows after the checkpoint", both_logs(b'{"step": 5, "loss": 1}\n'), resumed, LOGS),
    ("lines without content", both_logs(b"\n\r\n  \n"), resumed, LOGS),
    (
        "empty logs",
        lambda run: [put(f"{n}.jsonl", b"")(run) for n in ("metrics", "evals")],
        resumed,
        [[6]] * 2,
    ),
    ("no logs", lambda run: [remove(f"{n}.jsonl")(run) for n in ("metrics", "evals")], resumed, [[6]] * 2),
    ("two rows glued", add("evals.jsonl", b'{"step": 6, "lo' + ROW + b"\n"), evaluated, NO_ROW),
    ("a number for a row", add("metrics.jsonl", b"5\n"), resumed, NO_ROW),
    ("a step that is a text", add("metrics.jsonl", b'{"step": "6"}\n'), resumed, NO_ROW),
    ("a step of 31 digits", add("metrics.jsonl", b'{"step": 1' + b"0" * 30 + b"}\n"), resumed, NO_ROW),
    ("a metric that is a text", add("evals.jsonl", b'{"step": 6, "R@1": "good"}\n'), evaluated, NO_ROW),
    (
        "a metric of 400 digits",
        add("evals.jsonl", b'{"step": 6, "x": 1' + b"0" * 400 + b"}\n"),
        evaluated,
        NO_ROW,
    ),
    ("nested brackets in a log", add("metrics.jsonl", b"[" * 10**5 + b"\n"), resumed, NO_ROW),
    ("bytes in a log", add("evals.jsonl", bytes(range(128, 256)) + b"\n"), evaluated, NO_ROW),
    ("a folder for a log", replace("metrics.jsonl", os.mkdir), resumed, "expected a file at .*metrics.jsonl"),
    ("a pipe for a log", replace("evals.jsonl", os.mkfifo), evaluated, "expected a file at .*evals.jsonl"),
    ("half a vocabularies.json", put("vocabularies.json", b'{"a'), resumed, "vocabularies.json"),
    ("a list for vocabularies.json", put("vocabularies.json", b"[1]"), resumed, "vocabularies.json"),
    ("numbers in vocabularies.json", put("vocabularies.json", b'{"a": 1}'), resumed, "vocabularies.json"),
    ("a pipe for vocabularies.json", replace("vocabularies.json", os.mkfifo), resumed, "vocabularies.json"),
    ("a file for pictures", replace("pictures", Path.touch), resumed, "found a file at .*pictures"),
    (
        "a file for tensorboard",
        replace("tensorboard", Path.touch),
        resumed,
        "expected a folder at .*tensorboard",
    ),
    (
        "a file for checkpoints, listed",
        replace("checkpoints", Path.touch),
        listed,
        "expected a folder at .*checkp",
    ),
    (
        "a file for checkpoints, exported",
        replace("checkpoints", Path.touch),
        exported,
        "expected a folder at",
    ),
    ("a file for checkpoints, resumed", replace("checkpoints", Path.touch), resumed, "found a file at"),
    ("no checkpoints, listed", remove("checkpoints"), listed, []),
    (
        "no checkpoints, exported",
        remove("checkpoints"),
        exported,
        "expected a checkpoint in .*found none yet",
    ),
    ("a flipped bit, listed", flip, listed, FAULT),
    ("a flipped bit, exported", flip, exported, 2),
    ("an array cut short", lambda run: os.truncate(large(run, 4), 7), listed, FAULT),
    ("an array deleted", lambda run: large(run, 4).unlink(), exported, 2),
    ("a step without files", replace("checkpoints/9", os.mkdir), exported, 4),
    ("a file for a step's state", replace("checkpoints/4/state", Path.touch), listed, FAULT),
    ("no list of checksums", remove("checkpoints/4/sha256.json"), listed, FAULT),
    ("a folder for the checksums", replace("checkpoints/4/sha256.json", os.mkdir), exported, 2),
    ("a pipe for the checksums", replace("checkpoints/4/sha256.json", os.mkfifo), exported, 2),
    ("a list of no checksums", put("checkpoints/4/sha256.json", b"{}"), exported, 2),
    ("brackets for the checksums", put("checkpoints/4/sha256.json", b"[" * 10**5), listed, FAULT),
    ("a checksum list of one file", put("checkpoints/4/sha256.json", b'{"about/metadata": ""}'), exported, 2),
    (
        "unreadable with right checksums, listed",
        without_arrays,
        listed,
        "found damage in step 2, 4: no other is left",
    ),
    ("unreadable with right checksums, exported", without_arrays, exported, "cannot be opened"),
    (
        "every step damaged",
        lambda run: [large(run, s).unlink() for s in (2, 4)],
        exported,
        "undamaged checkpoint",
    ),
    ("a step copied to another's name, listed", copy_step("99"), listed, "found damage in step 99"),
    ("a step copied to another's name, exported", copy_step("99"), exported, 4),
    ("a link to another step", link_step("99"), exported, 4),
    ("a dangling link as a step", link_step("99", "nosuch"), exported, 4),
    ("a link to itself as a step", link_step("99", "99"), listed, [2, 4]),
    ("a file named as a step", put("checkpoints/5", b"x"), listed, [2, 4]),
    *(
        (f"a step in a folder named {name!r}", copy_step(name), listed, [2, 4])
        for name in ("007", "4 copy", "\u0664", "-4", "4.0", "9" * 30, ".4", "step_4", "metadata")
    ),
    *(
        (f"{name} beside Orbax's files", put(f"checkpoints/4/{name}", b"x"), listed, [2, 4])
        for name in ("notes.txt", "state/README", "state/.DS_Store", "state/d/.nfs0001", "about/~lock")
    ),
    ("an array file without a checksum", put("checkpoints/4/state/d/x", b"x"), listed, FAULT),
    ("a save that was interrupted", replace("checkpoints/6.orbax-checkpoint-tmp", os.mkdir), listed, [2, 4]),
    ("a file named as a save", put("checkpoints/6.orbax-checkpoint-tmp", b"x"), exported, 4),
    ("another program's state", foreign({"weights": SCALE}), exported, "expected a train state"),
    ("another program's state, opened", foreign({"weights": SCALE}), opened, "does not fit the experiment"),
    (
        "parameters in a list",
        foreign({"params": [SCALE], "step": np.int32(6)}),
        exported,
        "expected a train state",
    ),
    ("a step that is a vector", foreign(state(6) | {"step": SCALE}), exported, "expected a train state"),
    (
        "an unknown step",
        lambda run: None,
        lambda run: command("export", str(run), "x.safetensors", "--step", "3"),
        "expected a checkpoint of step 3",
    ),
    (
        "an existing file",
        put("../x.safetensors", b"x"),
        lambda run: export(run, run.parent / "x.safetensors"),
        "expected a new file",
    ),
    (
        "a folder in place of a file",
        lambda run: (run.parent / "x.safetensors").mkdir(),
        lambda run: export(run, run.parent / "x.safetensors", overwrite=True),
        "expected a new file",
    ),
    ("files of somebody else", remove(TEXT), resumed, "expected an empty folder or a run to resume"),
    (
        "a file in place of the run",
        lambda run: replace("run", Path.touch)(run.parent),
        listed,
        "found a file at",
    ),
    (
        "a link to itself in place of the run",
        lambda run: replace("run", lambda p: p.symlink_to(p))(run.parent),
        listed,
        "found nothing at",
    ),
]


def damaged(damage: Callable[[Path], Any], verb: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def give(folder: Path) -> Any:
        run = copied(folder)
        damage(run)
        return verb(run)

    return give


NAMES = {
    "spaces": " two  spaces ",
    "brackets": "lr[1e-3]",
    "an open bracket": "[",
    "a star": "a*b",
    "a question mark": "a?b",
    "braces": "{a,b}",
    "NFC": unicodedata.normalize("NFC", "ü"),
    "NFD": unicodedata.normalize("NFD", "ü"),
    "a line break": "a\nb",
    "a tab": "a\tb",
    "quotes": "'\"`",
    "a backslash": "a\\b",
    "a bucket's prefix": "gs:",
    "percent signs": "%s%20{0}",
    "a hash": "a#b?c&d",
    "a leading dash": "-rf",
    "a leading dot": ".run",
    "a tilde": "~",
    "a variable": "$HOME",
    "200 letters": "x" * 200,
    "emoji": "🎉",
    "right to left": "ריצה",
}


def life(name: str) -> Callable[[Path], Any]:
    """Saves, resumes, lists and exports a run in a folder of that name, beside another that globs match."""

    def give(folder: Path) -> Any:
        for parent in ("a-b", name):
            with RunFolder.claim(folder / parent / name, "Experiment()") as run:
                for step in (2, 4):
                    with contextlib.closing(Checkpoints(run.checkpoints)) as checkpoints:
                        checkpoints.restore_arrays()
                        checkpoints.save(step, state(step))
                    run.write_metrics(step, {"loss": 1.0})
        run = RunFolder(folder / name / name)
        assert len(run.metrics()) == 2
        return [listed(run.path), exported(run.path)]

    return give


def behind_link(folder: Path) -> Any:
    (folder / "disk[0]").mkdir()
    (folder / "here").symlink_to("disk[0]")
    return life("here")(folder)


def claimed_twice(folder: Path) -> None:
    with RunFolder.claim(folder / "run", "Experiment()"):
        RunFolder.claim(folder / "run", "Experiment()")


CASES: tuple[Case, ...] = (
    *(
        Case("run folder", name, "refused", damaged(damage, verb), expected)
        if isinstance(expected, str)
        else Case("run folder", name, "right", damaged(damage, verb), expected=expected)
        for name, damage, verb, expected in DAMAGES
    ),
    *(
        Case("run folder", f"a name with {what}", "right", life(name), expected=[[2, 4], 4])
        for what, name in NAMES.items()
    ),
    Case("run folder", "behind a link", "right", behind_link, expected=[[2, 4], 4]),
    Case("run folder", "two processes in one folder", "refused", claimed_twice, "another process trains in"),
    Case(
        "run folder",
        "a name of 300 letters",
        "refused",
        lambda folder: command("checkpoints", str(folder / ("x" * 300))),
        "too long|folder of a run",
    ),
)
