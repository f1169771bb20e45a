"""Every case of the corpus ends as promised; none crashes, hangs, floods or is silent."""

import re
from pathlib import Path

import pytest
from corpus import CASES
from corpus.case import Case, outcome
from corpus.table import count

DOCS = Path(__file__).parents[1] / "docs" / "reliability.md"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case_ends_as_promised(case: Case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = outcome(case, tmp_path)
    assert found.kind == case.promise, found.detail


def test_names_are_unique():
    assert len({str(case) for case in CASES}) == len(CASES)


def test_docs_count_the_cases():
    section = DOCS.read_text().partition("## Corpus of bad inputs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\w ]+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", section, re.MULTILINE)
    assert rows == list(count())
