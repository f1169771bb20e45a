"""Bad, odd and hostile inputs, and what mmjax promises for each. `python tests/corpus/table.py` counts them.

Each module of this folder that is not in MACHINERY has a tuple CASES.
"""

import importlib
from pathlib import Path

MACHINERY = ("__init__", "case", "table", "tar_files")
CASES = tuple(
    case
    for file in sorted(Path(__file__).parent.glob("*.py"))
    if file.stem not in MACHINERY
    for case in importlib.import_module(f"corpus.{file.stem}").CASES
)
