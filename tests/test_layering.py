"""Import rules, and the modules that alone may compile, name mesh axes or use flax's logical axes."""

import ast
import collections
import subprocess
import sys
from pathlib import Path

import pytest

import mmjax

ROOT = Path(__file__).parents[1]
PACKAGE = Path(mmjax.__file__).parent
FILES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))
}
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))

# The only modules that call jax.jit.
COMPILING = ("training/", "evals/")
# Flax's names for logical axes and for parameter boxes with axis metadata.
LOGICAL_AXIS_API = {
    "AxisMetadata", "LogicallyPartitioned", "PARTITION_NAME", "Partitioned", "get_partition_spec",
    "logical_axis_rules", "logical_to_mesh", "logical_to_mesh_axes", "logical_to_mesh_sharding",
    "with_logical_constraint", "with_logical_partitioning", "with_partitioning",
}  # fmt: skip


def offenders(allowed: tuple[str, ...], offends) -> list[str]:
    """ "file:line" of every syntax node for which `offends` is true, outside the allowed files."""
    return [
        f"mmjax/{name}:{node.lineno}"
        for name, tree in FILES.items()
        if not name.startswith(allowed)
        for node in ast.walk(tree)
        if offends(node)
    ]


def names(node: ast.AST) -> set[str]:
    """The names that a node uses or imports."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return {name}
        case ast.ImportFrom(names=aliases):
            return {alias.name for alias in aliases}
    return set()


def imported(node: ast.AST) -> set[str]:
    match node:
        case ast.ImportFrom(module=module):
            return {module or ""}
        case ast.Import(names=aliases):
            return {alias.name for alias in aliases}
    return set()


def test_imports_follow_the_contracts_of_pyproject():
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_training_and_evaluation_call_jit():
    assert not offenders(COMPILING, lambda node: "jit" in names(node))


def test_only_sharding_names_a_mesh_axis():
    """The axis name "data" is not checked, since it is also an ordinary word."""
    is_axis = lambda node: isinstance(node, ast.Constant) and node.value in ("fsdp", "tensor")  # noqa: E731
    assert not offenders(("sharding/",), is_axis)
    assert offenders((), is_axis), "the mesh axes were renamed: update is_axis"


def test_only_annotate_uses_flax_logical_axes():
    uses_logical_axes = lambda node: bool(names(node) & LOGICAL_AXIS_API)  # noqa: E731
    assert not offenders(("sharding/annotate.py",), uses_logical_axes)
    assert offenders((), uses_logical_axes)


def test_nothing_imports_experiments_or_tests():
    roots = {"experiments", "tests", *(path.stem for path in EXPERIMENTS)}
    assert not offenders((), lambda node: any(module.split(".")[0] in roots for module in imported(node)))


def test_no_module_postpones_annotations():
    """`from __future__ import annotations` would turn them into strings, which jaxtyping cannot check."""
    assert not offenders((), lambda node: "__future__" in imported(node))


def test_no_two_test_files_have_one_name():
    """pytest imports a test file by its name alone, and stops at the second of a name."""
    names = collections.Counter(file.name for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_module_has_a_catch_all_name():
    assert not [name for name in FILES if Path(name).stem in ("utils", "util", "helpers", "common", "misc")]


@pytest.mark.parametrize("name", FILES)
def test_every_module_has_a_docstring(name):
    assert ast.get_docstring(FILES[name]), f"mmjax/{name} has no docstring"


def test_imports_and_experiments_use_no_device_and_need_no_type_checker():
    """JAX refuses to change jax_num_cpu_devices once a device has been used."""
    modules = [
        "mmjax." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in FILES
    ]
    modules = [name for name in modules if name not in ("mmjax.__main__", "mmjax.__init__")]
    program = f"""
import importlib, sys
sys.modules["beartype"] = None
for name in {modules}:
    importlib.import_module(name)
from mmjax.experiment import load
for path in {[str(path) for path in EXPERIMENTS]}:
    load(path)
import jax
jax.config.update("jax_num_cpu_devices", 3)
assert len(jax.devices()) == 3
"""
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "", "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_importing_mmjax_and_its_command_line_imports_nothing_heavy():
    heavy = {"jax", "numpy", "flax", "grain"}
    program = f"import sys, mmjax, mmjax.cli.main; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
