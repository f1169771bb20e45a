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
    "faults": ["tests/run/test_faults.py", "tests/run/test_resume.py", "tests/run/test_nonfinite.py"],
    "elastic": ["tests/run/test_elastic.py"],
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
    """Two tables of the pairs: by number of devices and by rules, the largest difference in millionths."""
    same = sum(
        all(row[f"source {what}"] == row[f"target {what}"] for what in ("devices", "rules")) for row in rows
    )
    largest = max(float(row["difference"]) for row in rows)
    text = [f"{len(rows)} pairs passed, {same} of them to the bit; largest difference {largest:.1e}."]
    for what in ("devices", "rules"):
        names = list(dict.fromkeys(row[f"source {what}"] for row in rows))
        text += ["", f"| from \\ to {what} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for source in names:
            cells = []
            for target in names:
                found = [
                    float(row["difference"])
                    for row in rows
                    if (row[f"source {what}"], row[f"target {what}"]) == (source, target)
                ]
                cells.append(f"{1e6 * max(found):.2f} ({len(found)})" if found else "")
            text.append(f"| {source} | {' | '.join(cells)} |")
    return "\n".join(text)


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
