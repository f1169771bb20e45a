"""Properties that every module has, checked for every row of the catalog."""

import functools
import os
import zlib
from pathlib import Path

import catalog
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog import ROWS, Row

from mmjax import encoders, fusion, heads, layers, objectives
from mmjax.sharding.axes import PARAMETER_AXES
from mmjax.testing import TOLERANCE

GOLDEN = Path(__file__).parent / "golden" / "parameters"
# A constant added to all keys does not change a softmax: the exact gradient is 0, the computed one rounding.
ZERO_GRADIENT = "key/bias"


def rows(condition=lambda row: True):
    """Parametrizes a test by row. All tests of a row go to one xdist worker, which compiles it once."""
    params = [
        pytest.param(row, id=row.name, marks=pytest.mark.xdist_group(row.name))
        for row in ROWS
        if condition(row)
    ]
    return pytest.mark.parametrize("row", params)


@functools.cache
def boxed_parameters(name: str):
    row = find(name)

    def init(*inputs):
        return row.make("float32").init(jax.random.key(0), *inputs, **call_kwargs(row))

    return jax.eval_shape(init, *row.inputs()).get("params", {})


def flat(boxed) -> dict[str, nn.LogicallyPartitioned]:
    """{"query/kernel": box}."""
    leaves = jax.tree.flatten_with_path(boxed, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): box for path, box in leaves}


@functools.cache
def parameters(name: str):
    """Random values for every parameter. Zero biases, as at initialisation, would hide how they are used."""

    def draw(path, abstract):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        value = 0.2 * np.random.default_rng(zlib.crc32(name.encode())).normal(size=abstract.shape)
        return (value + name.endswith("scale")).astype(abstract.dtype)

    return jax.tree.map_with_path(draw, nn.meta.unbox(boxed_parameters(name)))


def find(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def call_kwargs(row: Row) -> dict:
    return {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in row.kwargs.items()}


def forward(row: Row, params, inputs, dtype: str = "float32"):
    """The part of the module's output that tests compare."""
    return row.select(row.make(dtype).apply({"params": params}, *inputs, **call_kwargs(row)), inputs)


@functools.cache
def compiled(name: str):
    """(params, inputs) -> (output, gradients): one compilation serves most tests."""
    row = find(name)

    def loss(params, inputs):
        output = forward(row, params, inputs)
        # Unequal weights: the plain sum of a softmax or a norm is constant.
        weigh = lambda x: (x * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)).sum()  # noqa: E731
        return sum(weigh(x) for x in jax.tree.leaves(output) if x.dtype != bool), output

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(params, inputs):
        (_, output), grads = gradient(params, inputs)
        return output, grads

    return run


def assert_close(found, expected, tolerance: float) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, expected
    )


@pytest.mark.once
@rows()
def test_jit_equals_eager(row):
    inputs = jax.tree.map(jnp.asarray, row.inputs())
    output, _ = compiled(row.name)(parameters(row.name), inputs)
    assert_close(output, forward(row, parameters(row.name), inputs), row.tolerance)


@pytest.mark.once
@rows(lambda row: row.scramble)
def test_masked_values_never_influence_unmasked_outputs(row):
    inputs = row.inputs()
    # Not the seed of the inputs: a multiple of them would go unnoticed where only directions matter.
    scrambled = row.scramble(inputs, np.random.default_rng(7))
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), inputs, scrambled)
    assert any(jax.tree.leaves(changed)), "the row's inputs have no masked position"
    run = functools.partial(compiled(row.name), parameters(row.name))
    assert_close(run(scrambled), run(inputs), row.tolerance)


@pytest.mark.once
@rows()
def test_outputs_are_permutation_equivariant_over_the_batch(row):
    inputs = row.inputs()

    def permute(x):
        return x[np.random.default_rng(0).permutation(len(x))] if np.ndim(x) else x

    assert not np.array_equal(permute(np.arange(catalog.B)), np.arange(catalog.B))
    run = functools.partial(compiled(row.name), parameters(row.name))
    permuted, _ = run(jax.tree.map(permute, inputs))
    assert_close(permuted, jax.tree.map(permute, run(inputs)[0]), row.tolerance)


@pytest.mark.once
@rows(lambda row: row.bf16)
def test_bf16_is_close_to_fp32(row):
    inputs = row.inputs()
    exact, _ = compiled(row.name)(parameters(row.name), inputs)
    if row.bf16 == "inputs":
        inputs = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == np.float32 else x, inputs)
    dtype = "bfloat16" if row.bf16 == "module" else "float32"
    run = jax.jit(lambda params, inputs: forward(row, params, inputs, dtype))
    approximate = run(parameters(row.name), inputs)
    pairs = list(zip(jax.tree.leaves(approximate), jax.tree.leaves(exact), strict=True))
    for a, b in pairs:
        error = np.linalg.norm(np.float32(a) - np.float32(b)) / np.linalg.norm(np.float32(b))
        assert error < TOLERANCE["bf16"]
    if row.bf16 == "module":
        assert not all(np.array_equal(a, b) for a, b in pairs)


@rows()
def test_every_parameter_has_known_logical_axes(row):
    for name, box in flat(boxed_parameters(row.name)).items():
        assert isinstance(box, nn.LogicallyPartitioned), (
            f"{name} has no logical axes: wrap its initialiser in sharding.param_axes"
        )
        assert len(box.names) == box.value.ndim, f"{name}: axes {box.names} for shape {box.value.shape}"
        assert set(box.names) <= {None, *PARAMETER_AXES}, f"{name}: axes {box.names} are not of parameters"
        assert box.value.dtype == jnp.float32, f"{name} is {box.value.dtype}: parameters are float32"


@pytest.mark.once
@rows()
def test_every_parameter_gets_a_gradient(row):
    _, grads = compiled(row.name)(parameters(row.name), row.inputs())
    sizes = {name: float(np.abs(grad).max()) for name, grad in flat(grads).items()}
    for name, size in sizes.items():
        assert np.isfinite(size), f"the gradient of {name} is not finite"
        if name.endswith(ZERO_GRADIENT):
            assert size < 1e-5 * max(sizes.values()), f"expected a gradient of 0 for {name}, found {size}"
        else:
            assert size > 1e-5 * max(sizes.values()), f"{name} gets no gradient"


@rows()
def test_parameter_tree_is_the_golden_one(row):
    """Checkpoints and exported files hold these names. Record a change of them in CHANGELOG.md."""
    text = "".join(
        f"{name} {'x'.join(map(str, box.value.shape)) or 'scalar'} {', '.join(map(str, box.names))}".rstrip()
        + "\n"
        for name, box in sorted(flat(boxed_parameters(row.name)).items())
    )
    file = GOLDEN / f"{row.name}.txt"
    if os.environ.get("MMJAX_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    golden = file.read_text() if file.is_file() else ""
    assert text == golden and file.is_file(), (
        f"the parameters differ from {file}. If this is intended, write the file again with "
        "MMJAX_GOLDEN=1 pytest tests/test_catalog.py -k golden, and read the diff"
    )


def test_every_module_has_a_row():
    for package in (layers, encoders, fusion, heads, objectives):
        for name in package.__all__:
            value = getattr(package, name)
            is_interface = getattr(value, "__module__", "").endswith(".base")
            if isinstance(value, type) and issubclass(value, nn.Module) and not is_interface:
                full = f"{package.__name__.removeprefix('mmjax.')}.{name}"
                assert any(row.name == full for row in ROWS), f"{full} has no row in {catalog.__file__}"


def test_golden_files_have_rows():
    assert {file.stem for file in GOLDEN.glob("*.txt")} == {row.name for row in ROWS}
