"""Runs the corpus, and prints the table of docs/reliability.md: `python tests/corpus/table.py`."""

import collections
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from corpus import CASES  # noqa: E402
from corpus.case import outcome  # noqa: E402

PROMISES = ("refused", "skipped", "right")


def count() -> Iterator[tuple[str, ...]]:
    """(family, cases, refused, skipped, right) of each family, as promised, and of all."""
    promised = collections.Counter((case.family, case.promise) for case in CASES)
    for family in [*sorted({case.family for case in CASES}), "all"]:
        numbers = [
            sum(n for (f, p), n in promised.items() if p == promise and family in (f, "all"))
            for promise in PROMISES
        ]
        yield family, *map(str, (sum(numbers), *numbers))


def main() -> None:
    failed = 0
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            found = outcome(case, Path(folder))
            os.chdir("/")
        if found.kind != case.promise:
            failed += 1
            print(f"{case}: promised {case.promise}, {found.kind}: {found.detail}", file=sys.stderr)
    print("| family | cases | refused | skipped | right |\n|---|---|---|---|---|")
    for row in count():
        print(f"| {' | '.join(row)} |")
    print(f"\n{len(CASES) - failed} of {len(CASES)} ended as promised")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
