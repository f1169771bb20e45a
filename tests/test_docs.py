"""The documents are true: their examples run, their links lead somewhere, and the tree names every file."""

import doctest
import importlib
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/**/*.md")])
MODULES = sorted(path for path in ROOT.glob("mmjax/**/*.py") if ">>>" in path.read_text())
OWN_DATA = ROOT / "docs" / "examples" / "own_data.py"
# The example as it is, but for a run of seconds.
SHORT = [
    "num_steps=2",
    "data.batch_size=8",
    "optimizer.schedule.warmup_steps=0",
    "evals.retrieval.batch_size=8",
    "evals.retrieval.pairs=(('image', 'text'),)",
]


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if ">>>" in path.read_text()], ids=lambda path: path.name
)
def test_examples_in_documents(path):
    assert doctest.testfile(str(path), module_relative=False).failed == 0


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_examples_in_docstrings(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and result.failed == 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing, f"{path.name} links to {missing}"


def test_the_tree_names_every_file_and_no_other():
    tree = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    folders, lines = [], []
    for line in tree.splitlines():
        name = line.strip().split(" ")[0]
        depth = (len(line) - len(line.lstrip())) // 2
        if name.endswith("/"):
            folders = [*folders[:depth], name]
        elif name.endswith(".py"):
            lines.append("".join(folders[:depth]) + name)
    named = set(lines)
    assert len(lines) == len(named), (
        f"named twice: {sorted({name for name in lines if lines.count(name) > 1})}"
    )
    real = {
        str(path.relative_to(ROOT)) for path in ROOT.glob("mmjax/**/*.py") if not path.name.startswith("__")
    }
    assert named == real, f"not in the tree: {sorted(real - named)}; in the tree only: {sorted(named - real)}"


def test_the_import_order_is_the_enforced_one():
    shown = (
        (ROOT / "docs" / "architecture.md")
        .read_text()
        .partition("## Import order")[2]
        .split("```")[1]
        .split("\n")
    )
    enforced = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("]")[0]
    assert [line for line in shown if line] == [
        name for name in re.findall(r'"(.*)"', enforced) if name != "__main__"
    ]


def test_readme_holds_the_example_as_it_is():
    assert python_blocks()[0] == OWN_DATA.read_text()


def test_own_data_and_notebook_of_the_readme_run(tmp_path, monkeypatch):
    """What a reader does: pack the files, run, put the number that the error says, run again, look at it."""
    from mmjax.errors import InputError
    from mmjax.experiment import load

    for split, num_examples in (("train", 16), ("test", 8)):
        pack(tmp_path / f"{split}.tar", num_examples)
    monkeypatch.setenv("OWN_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "docs" / "examples" / "own_data.py"
    copy.parent.mkdir(parents=True)
    copy.write_text(OWN_DATA.read_text())
    dataset = load(copy, SHORT).evals["retrieval"].data
    with pytest.raises(InputError, match=r"found \d+ tokens .* Put vocab_size=\d+") as refusal:
        dataset.open().example(0)
    size = re.search(r"Put vocab_size=(\d+)", str(refusal.value)).group(1)
    copy.write_text(re.sub(r"^VOCAB = \d+", f"VOCAB = {size}", OWN_DATA.read_text(), flags=re.M))

    notebook = python_blocks()[1]
    assert '["num_steps=2000"]' in notebook
    program = notebook.replace('["num_steps=2000"]', str(SHORT)) + CHECKS
    # A process of its own: the reader has one device, and no annotation is checked.
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


# What must hold after the notebook's lines.
CHECKS = """
assert state.step == 2
assert {"image->text/R@1", "image->text/R@5/chance"} <= set(results["retrieval"])
assert similarities.shape == (8, 8) and abs(similarities).max() <= 1.0001
"""


def python_blocks() -> list[str]:
    """The README's Python code, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


def pack(path: Path, num_examples: int) -> None:
    """Pictures of one colour, tones and captions; every third example has no recording."""
    import soundfile
    from PIL import Image

    def encoded(index: int) -> dict[str, bytes]:
        picture, recording = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (90, 70), (index * 40 % 256, 90, 200)).save(picture, "JPEG")
        soundfile.write(recording, np.sin(np.arange(8000) * (index + 1) / 40), 16_000, format="WAV")
        caption = f"a {('red', 'green', 'blue')[index % 3]} square, number {index}"
        files = {"jpg": picture.getvalue(), "wav": recording.getvalue(), "txt": caption.encode()}
        return {name: data for name, data in files.items() if name != "wav" or index % 3}

    with tarfile.open(path, "w") as tar:
        for index in range(num_examples):
            for extension, data in encoded(index).items():
                member = tarfile.TarInfo(f"{index:03}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
