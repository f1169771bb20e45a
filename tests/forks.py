"""Starts `mmjax` in processes that have imported everything already, and ends them at chosen moments.

    Forks(environment).run(["train", ...], die_at=17)

A fork of a process that has imported JAX but has not started it costs the start of a run and not its imports.
The parent is a process of its own: one in which tests have used devices must not be forked.
"""

import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# What Python tells of files being made, renamed and deleted: between any two of these a run may die.
OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


class Forks:
    """The parent, seen from the tests."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(log)],
            env=os.environ | environment | {"PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(
        self, arguments: list[Any], run_dir: Path, die_at: int | None = None, file_limit: int | None = None
    ) -> int:
        """Starts ``mmjax`` with these arguments; returns the process id.

        die_at: kill -9 at the so manieth operation on files below run_dir; counted in every thread.
        file_limit: no file may become larger than so many bytes.
        """
        order = {"arguments": [str(a) for a in arguments], "run_dir": str(run_dir)}
        return self._ask(order | {"die_at": die_at, "file_limit": file_limit})["pid"]

    def wait(self, pid: int) -> tuple[int, int, str]:
        """(exit code, or minus the signal that ended it; operations on files; what it printed)."""
        end = self._ask({"wait": pid})
        return end["code"], end["operations"], (self.log / str(pid)).read_text(errors="replace")

    def run(self, arguments: list[Any], run_dir: Path, **limits: int) -> tuple[int, int, str]:
        """Starts and waits."""
        return self.wait(self.start(arguments, run_dir, **limits))

    def close(self) -> None:
        """Ends the parent, which has no children left."""
        self._process.communicate(timeout=60)

    def _ask(self, order: dict) -> dict:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def kill_while_saving(pid: int, run_dir: Path, delay: float) -> bool:
    """kill -9 so many seconds after the process began to save; False if it was not seen to."""
    before = set(run_dir.glob("checkpoints/*.orbax-checkpoint-tmp"))  # what an earlier kill has left
    while not _ended(pid):
        if set(run_dir.glob("checkpoints/*.orbax-checkpoint-tmp")) - before:
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
            return True
        time.sleep(0.0005)
    return False


def _ended(pid: int) -> bool:
    """Whether a process has ended; its parent has not asked yet."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _serve(log: Path) -> None:
    from mmjax.cli import main, tables  # noqa: F401
    from mmjax.evals import pictures  # noqa: F401
    from mmjax.run import loop  # noqa: F401

    counters: dict[int, mmap.mmap] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            operations = int.from_bytes(counters[order["wait"]][:8], "little")
            answer = {"code": os.waitstatus_to_exitcode(status), "operations": operations}
        else:
            counter = mmap.mmap(-1, 8)  # shared with the child
            pid = os.fork()
            if not pid:
                _child(main.main, order, counter, log)
            counters[pid] = counter
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _child(main, order: dict, counter: mmap.mmap, log: Path) -> None:
    stream = os.open(log / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    below, count = order["run_dir"], 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event not in OPERATIONS or not str(arguments[0]).startswith(below):
            return
        count += 1
        counter[:8] = count.to_bytes(8, "little")
        if count == order["die_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    if order["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], resource.RLIM_INFINITY))
    code = 70
    try:
        code = main(order["arguments"])
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
