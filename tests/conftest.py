"""All tests: eight CPU devices, no implicit rank promotion, and jaxtyping checks of every annotated shape."""

import gc
import importlib.metadata
import os
import signal

# Set before JAX is imported: it reads these variables once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# A shell that starts pytest in the background makes it and its child processes ignore SIGINT. Tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# XLA starts one thread per core. Eight devices that wait for each other in a collective need eight threads.
os.environ["NPROC"] = "32"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Compilation takes most of the time of the tests. Without optimisations it takes half as long.
FAST_COMPILE = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",  # the pytest workers already use all cores
]
JAXLIB_VERSION = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
if JAXLIB_VERSION < (0, 11):  # later versions have no such flag, and abort
    FAST_COMPILE.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(FAST_COMPILE)
# Tracing creates many objects and little garbage. The default thresholds spend a tenth of the time on it.
gc.set_threshold(100_000, 20, 20)
# Hides the warning of XLA's partitioner about "involuntary" gathers, which every mesh causes.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# The packages whose annotations are checked. Tests of the others pass wrong types to read the error messages.
CHECKED = (
    "layers",
    "encoders",
    "fusion",
    "heads",
    "balance.solvers",
    "balance.conflict",
    "model",
    "views",
    "objectives",
    "learner",
    "sharding",
    "training",
)
install_import_hook([f"mmjax.{name}" for name in CHECKED], "beartype.beartype")


@pytest.fixture
def key() -> jax.Array:
    """A PRNG key, the same in every test."""
    return jax.random.key(0)


@pytest.fixture(scope="module")
def compilation_cache(tmp_path_factory):
    """Caches compiled programs for a test module and the processes that it starts."""
    import tiny  # here: importing mmjax before the import hook would leave its annotations unchecked

    yield from tiny.compilation_cache(tmp_path_factory.mktemp("compiled"))
