"""mmjax's numbers beside those of libraries of record, as a table of the largest differences.

    make peers
    .venv-peers/bin/python experiments/benchmarks/libraries_of_record.py [WORD ...]

Every row gives one input to mmjax and to the library. With words, only rows that hold one of them are run.
The exit code is 1 if a difference is larger than its row allows.
"""

import datetime
import subprocess
import sys
import traceback
from collections.abc import Iterator

import jax
from peers import detection, inputs, layers, losses, optimizers, rankings, scores, sound
from peers.comparison import Comparison

ROWS: tuple[Comparison, ...] = (
    *losses.ROWS, *detection.ROWS, *layers.ROWS, *optimizers.ROWS, *scores.ROWS, *rankings.ROWS,
    *inputs.ROWS, *sound.ROWS,
)  # fmt: skip


def table(rows: tuple[Comparison, ...]) -> Iterator[tuple[bool, str]]:
    """Yields (whether it is as close as allowed, line) for each row."""
    for row in rows:
        try:
            difference, note = row.difference(), row.reason
        except Exception as error:
            traceback.print_exc()
            difference, note = float("inf"), f"{type(error).__name__}: {error}"
        is_close = difference <= row.within
        verdict = ("equal" if not row.reason else "known difference") if is_close else "**WRONG**"
        note = f"{verdict}: {note}" if note else verdict
        yield is_close, f"| {row.what} | {row.reference()} | {difference:.2g} | {row.within:.2g} | {note} |"


def main() -> int:
    words = sys.argv[1:]
    rows = tuple(
        row for row in ROWS if not words or any(word in f"{row.what} {row.package}" for word in words)
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    print(
        f"{datetime.date.today()}, commit {commit or 'unknown'}, jax {jax.__version__} on "
        f"{jax.default_backend()}, Python {sys.version.split()[0]}:\n"
    )
    print("| what | library of record | largest difference | allowed | |\n|---|---|---|---|---|")
    num_wrong = 0
    for is_close, line in table(rows):
        print(line, flush=True)
        num_wrong += not is_close
    print(f"\n{len(rows)} comparisons, {num_wrong} of them beyond what is allowed")
    return 1 if num_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
