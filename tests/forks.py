"""Runs `mmjax` in forks of a process that has imported everything, and kills them at chosen moments.

    Forks(environment, log_folder).run(["train", ...], run_dir, die_at=17)

A fork saves the time of the imports. The parent is a new process that has not started JAX, because a process
that has used devices must not be forked.
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

# Audit events of file operations. A run may be killed before each of them.
OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


class Forks:
    """Starts the parent process and sends it requests."""

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
        """Starts `mmjax` with these arguments; returns the process id.

        Args:
          die_at: the number of the file operation below `run_dir`, in any thread, at which the process dies
            by SIGKILL.
          file_limit: the largest size of a file, in bytes.
        """
        request = {"arguments": [str(a) for a in arguments], "run_dir": str(run_dir)}
        return self._ask(request | {"die_at": die_at, "file_limit": file_limit})["pid"]

    def wait(self, pid: int) -> tuple[int, int, str]:
        """(exit code, or minus the signal that ended it; number of file operations; output)."""
        end = self._ask({"wait": pid})
        return end["code"], end["operations"], (self.log / str(pid)).read_text(errors="replace")

    def run(self, arguments: list[Any], run_dir: Path, **limits: int) -> tuple[int, int, str]:
        """Starts a process and waits for it."""
        return self.wait(self.start(arguments, run_dir, **limits))

    def close(self) -> None:
        """Ends the parent, which has no children left."""
        self._process.communicate(timeout=60)

    def _ask(self, request: dict) -> dict:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def kill_while_saving(pid: int, run_dir: Path, delay: float) -> bool:
    """Kills a process `delay` seconds after it starts to save; False if it ended before it saved."""
    before = set(run_dir.glob("checkpoints/*.orbax-checkpoint-tmp"))  # left by an earlier kill
    while not _ended(pid):
        if set(run_dir.glob("checkpoints/*.orbax-checkpoint-tmp")) - before:
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
            return True
        time.sleep(0.0005)
    return False


def _ended(pid: int) -> bool:
    """Whether a process is a zombie: it has ended, and its parent has not waited for it yet."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _serve(log: Path) -> None:
    from mmjax.cli import main, tables  # noqa: F401
    from mmjax.evals import pictures  # noqa: F401
    from mmjax.run import loop  # noqa: F401

    counters: dict[int, mmap.mmap] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            operations = int.from_bytes(counters[request["wait"]][:8], "little")
            answer = {"code": os.waitstatus_to_exitcode(status), "operations": operations}
        else:
            counter = mmap.mmap(-1, 8)  # shared with the child
            pid = os.fork()
            if not pid:
                _child(main.main, request, counter, log)
            counters[pid] = counter
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _child(main, request: dict, counter: mmap.mmap, log: Path) -> None:
    stream = os.open(log / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    run_dir, count = request["run_dir"], 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event not in OPERATIONS or not str(arguments[0]).startswith(run_dir):
            return
        count += 1
        counter[:8] = count.to_bytes(8, "little")
        if count == request["die_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    if request["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], resource.RLIM_INFINITY))
    code = 70
    try:
        code = main(request["arguments"])
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
