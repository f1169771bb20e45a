"""Documentation: examples run, links resolve, and the file tree in architecture.md matches the package."""

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
# Overrides that shorten the example to a run of seconds.
SHORT_RUN = [
    "num_steps=2",
    "data.batch_size=8",
    "optimizer.schedule.warmup_steps=0",
    "evals.retrieval.batch_size=8",
    "evals.retrieval.pairs=(('image', 'text'),)",
]


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if ">>>" in path.read_text()], ids=lambda path: path.name
)
def test_doctests_of_documents_pass(path):
    assert doctest.testfile(str(path), module_relative=False).failed == 0


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_doctests_of_docstrings_pass(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and result.failed == 0


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_point_to_existing_files(path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing, f"{path.name} links to {missing}"


def test_architecture_tree_lists_exactly_the_files_of_the_package():
    tree = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    folders, listed = [], []
    for line in tree.splitlines():
        name = line.strip().split(" ")[0]
        depth = (len(line) - len(line.lstrip())) // 2
        if name.endswith("/"):
            folders = [*folders[:depth], name]
        elif name.endswith(".py"):
            listed.append("".join(folders[:depth]) + name)
    repeated = sorted({name for name in listed if listed.count(name) > 1})
    assert not repeated, f"listed twice: {repeated}"
    files = {
        str(path.relative_to(ROOT)) for path in ROOT.glob("mmjax/**/*.py") if not path.name.startswith("__")
    }
    only_tree, only_package = sorted(set(listed) - files), sorted(files - set(listed))
    assert not only_tree and not only_package, f"not in the tree: {only_package}; only in it: {only_tree}"


def test_documented_import_order_equals_the_import_linter_contract():
    section = (ROOT / "docs" / "architecture.md").read_text().partition("## Import order")[2]
    documented = [line for line in section.split("```")[1].split("\n") if line]
    contract = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("]")[0]
    assert documented == [name for name in re.findall(r'"(.*)"', contract) if name != "__main__"]


def test_readme_contains_the_own_data_example():
    assert python_blocks()[1] == OWN_DATA.read_text()


def test_readme_notebook_trains_and_embeds_the_own_data_example(tmp_path, monkeypatch):
    """Follows the README: pack the files, read the vocabulary size from the error, train, use the run."""
    from PIL import Image

    from mmjax.errors import InputError
    from mmjax.experiment import load

    for split, num_examples in (("train", 16), ("test", 8)):
        write_shard(tmp_path / f"{split}.tar", num_examples)
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (90, 70), colour).save(tmp_path / name)
    monkeypatch.setenv("OWN_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "docs" / "examples" / "own_data.py"
    copy.parent.mkdir(parents=True)
    copy.write_text(OWN_DATA.read_text())
    dataset = load(copy, SHORT_RUN).evals["retrieval"].data
    with pytest.raises(InputError, match=r"found \d+ tokens .* Put vocab_size=\d+") as refusal:
        dataset.open().example(0)
    size = re.search(r"Put vocab_size=(\d+)", str(refusal.value)).group(1)
    copy.write_text(re.sub(r"^VOCAB = \d+", f"VOCAB = {size}", OWN_DATA.read_text(), flags=re.M))

    notebook = python_blocks()[0]
    assert '["num_steps=2000"]' in notebook
    program = notebook.replace('["num_steps=2000"]', str(SHORT_RUN)) + CHECKS
    # In a new process, which has one device and no type checking, as the reader's has.
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


# Appended to the notebook's lines.
CHECKS = """
assert run.step == 2 and [row["step"] for row in run.metrics()] == [1, 2]
assert {"image->text/R@1", "image->text/R@5/chance"} <= set(run.results["retrieval"])
assert images.shape == texts.shape == (2, 128)
assert similarities.shape == (2, 2) and abs(similarities).max() <= 1.0001
with open("own_data.safetensors", "rb") as file:
    assert file.read(8)
"""


def python_blocks() -> list[str]:
    """The Python code blocks of the README: the notebook, then docs/examples/own_data.py."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


def write_shard(path: Path, num_examples: int) -> None:
    """Writes single-colour images, tones and captions; every third example has no audio."""
    import soundfile
    from PIL import Image

    def encode(index: int) -> dict[str, bytes]:
        image, audio = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (90, 70), (index * 40 % 256, 90, 200)).save(image, "JPEG")
        soundfile.write(audio, np.sin(np.arange(8000) * (index + 1) / 40), 16_000, format="WAV")
        caption = f"a {('red', 'green', 'blue')[index % 3]} square, number {index}"
        files = {"jpg": image.getvalue(), "wav": audio.getvalue(), "txt": caption.encode()}
        return {name: data for name, data in files.items() if name != "wav" or index % 3}

    with tarfile.open(path, "w") as tar:
        for index in range(num_examples):
            for extension, data in encode(index).items():
                member = tarfile.TarInfo(f"{index:03}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
