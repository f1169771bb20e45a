"""Generates the tables of docs/reliability.md by running the tests.

    python experiments/benchmarks/reliability.py faults     # minutes
    python experiments/benchmarks/reliability.py elastic    # every pair of topologies: about ten minutes

Each test that passes records properties in pytest's report, which become rows of the table; a failed test has
no row. Further arguments are passed to pytest: `faults -k kill`.
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
    """The recorded properties of each test that passed."""
    rows = []
    for case in ElementTree.parse(report).iter("testcase"):
        passed = not any(case.find(outcome) is not None for outcome in ("failure", "error", "skipped"))
        recorded = {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
        if passed and recorded:
            rows.append(recorded)
    return rows


def faults(rows: list[dict[str, str]]) -> str:
    """A row per fault; tests of the same fault are added up."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    lost = {}
    for row in rows:
        for i, name in enumerate(("tried", "survived")):
            counts[row["fault"]][i] += int(row[name])
        lost[row["fault"]] = row["lost"]
    lines = [f"| {name} | {tried} | {ok} | {lost[name]} |" for name, (tried, ok) in counts.items()]
    return "\n".join(["| fault | tried | survived | lost |", "|---|---|---|---|", *lines])


def elastic(rows: list[dict[str, str]]) -> str:
    """Two tables of topology pairs, by devices and by rules: the largest difference in millionths."""
    num_same = sum(
        all(row[f"source {key}"] == row[f"target {key}"] for key in ("devices", "rules")) for row in rows
    )
    largest = max(float(row["difference"]) for row in rows)
    text = [f"{len(rows)} pairs passed, {num_same} of them to the bit; largest difference {largest:.1e}."]
    for key in ("devices", "rules"):
        names = list(dict.fromkeys(row[f"source {key}"] for row in rows))
        text += ["", f"| from \\ to {key} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for source in names:
            cells = []
            for target in names:
                differences = [
                    float(row["difference"])
                    for row in rows
                    if (row[f"source {key}"], row[f"target {key}"]) == (source, target)
                ]
                cells.append(f"{1e6 * max(differences):.2f} ({len(differences)})" if differences else "")
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
