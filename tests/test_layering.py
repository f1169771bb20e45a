"""Who may import whom, and who alone may name a mesh axis, compile, or speak to flax about axes."""

import ast
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

# The only modules that compile, and the only ones that may.
COMPILING = ("train/", "evals/")
# Flax's own names for logical axes and for the boxes that carry them.
LOGICAL_AXIS_API = {
    "AxisMetadata", "LogicallyPartitioned", "PARTITION_NAME", "Partitioned", "get_partition_spec",
    "logical_axis_rules", "logical_to_mesh", "logical_to_mesh_axes", "logical_to_mesh_sharding",
    "with_logical_constraint", "with_logical_partitioning", "with_partitioning",
}  # fmt: skip


def offenders(allowed: tuple[str, ...], offends) -> list[str]:
    """ "file:line" of every syntax node that offends, outside the allowed files."""
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


def test_each_layer_imports_only_what_stands_below_it():
    """The contracts are in pyproject.toml."""
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_training_and_evaluation_compile():
    assert not offenders(COMPILING, lambda node: "jit" in names(node))


def test_only_sharding_names_a_mesh_axis():
    """ "data" is a word of its own; the other two are only ever axes."""
    is_axis = lambda node: isinstance(node, ast.Constant) and node.value in ("fsdp", "tensor")  # noqa: E731
    assert not offenders(("sharding/",), is_axis)
    assert offenders((), is_axis), "the mesh axes have other names now: name them here"


def test_only_annotate_speaks_to_flax_about_axes():
    speaks = lambda node: bool(names(node) & LOGICAL_AXIS_API)  # noqa: E731
    assert not offenders(("sharding/annotate.py",), speaks)
    assert offenders((), speaks)


def test_nothing_imports_experiments_or_tests():
    roots = {"experiments", "tests", *(path.stem for path in EXPERIMENTS)}
    assert not offenders((), lambda node: any(module.split(".")[0] in roots for module in imported(node)))


def test_annotations_are_kept_for_jaxtyping():
    """`from __future__ import annotations` would make strings of them, which nothing checks."""
    assert not offenders((), lambda node: "__future__" in imported(node))


def test_no_module_is_a_drawer_for_everything():
    assert not [name for name in FILES if Path(name).stem in ("utils", "util", "helpers", "common", "misc")]


@pytest.mark.parametrize("name", FILES)
def test_every_module_says_what_it_is(name):
    assert ast.get_docstring(FILES[name]), f"mmjax/{name} has no docstring"


def test_importing_everything_touches_no_device_and_needs_no_type_checker():
    """Modules and experiments: JAX refuses this change once a device has been touched."""
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


def test_the_package_itself_is_light():
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
