"""Fills the tables of docs/reliability.md from real runs of the tests.

    python experiments/benchmarks/reliability.py faults     # minutes
    python experiments/benchmarks/reliability.py elastic    # every pair of topologies: some ten minutes

Each test that survives a fault says so in pytest's report, which becomes a row here; a test that fails has no
row. Whatever else is asked for goes to pytest: `faults -k kill`.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
FILES = {
    "faults": ["tests/test_faults.py", "tests/test_resume.py", "tests/test_nonfinite.py"],
    "elastic": ["tests/test_elastic.py"],
}


def properties(report: Path) -> list[dict[str, str]]:
    """What each test that passed recorded."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        passed = not any(case.find(ending) is not None for ending in ("failure", "error", "skipped"))
        recorded = {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
        if passed and recorded:
            found.append(recorded)
    return found


def faults(rows: list[dict[str, str]]) -> str:
    """A row a fault; those of one name are added up."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    lost = {}
    for row in rows:
        for place, name in enumerate(("tried", "survived")):
            counts[row["fault"]][place] += int(row[name])
        lost[row["fault"]] = row["lost"]
    lines = [f"| {name} | {tried} | {ok} | {lost[name]} |" for name, (tried, ok) in counts.items()]
    return "\n".join(["| fault | tried | survived | lost |", "|---|---|---|---|", *lines])


def elastic(rows: list[dict[str, str]]) -> str:
    """Largest relative difference of a loss from one device's, in millionths; bold: the same bits."""
    names = list(dict.fromkeys(row["source"] for row in rows))
    apart = {(row["source"], row["target"]): float(row["apart"]) for row in rows}

    def cell(source: str, target: str) -> str:
        if (source, target) not in apart:
            return ""
        return f"{'**' * (source == target)}{1e6 * apart[source, target]:.1f}{'**' * (source == target)}"

    lines = [f"| {name} | " + " | ".join(cell(name, target) for target in names) + " |" for name in names]
    head = ["| from \\ to | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    passed = sum(1 for pair in apart)
    return "\n".join(
        [f"{passed} pairs passed; the largest difference is {max(apart.values()):.1e}.", "", *head, *lines]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=FILES)
    parser.add_argument(
        "--from-report", type=Path, help="an earlier run's junit.xml, instead of running the tests"
    )
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        junit = arguments.from_report or Path(folder) / "junit.xml"
        code = 0
        if not arguments.from_report:
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                f"--junitxml={junit}",
                "-o",
                "junit_family=xunit1",
            ]
            environment = os.environ | {"MMJAX_ELASTIC": "all"}
            code = subprocess.run(
                [*command, *FILES[arguments.table], *rest], cwd=ROOT, env=environment
            ).returncode
        table = {"faults": faults, "elastic": elastic}[arguments.table](properties(junit))
    print(f"\n{datetime.date.today()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n\n{table}")
    sys.exit(code)
