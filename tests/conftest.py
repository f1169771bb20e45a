"""Eight CPU devices, no silent broadcasting of ranks, and every array annotation checked on every call."""

import gc
import importlib.metadata
import os
import signal

# All of it before jax looks: a started backend keeps what it saw.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# Where the tests were started in the background, Ctrl-C is ignored, by the processes that they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# XLA's pool has a thread a core, and eight devices that wait for each other in a collective need eight.
os.environ["NPROC"] = "32"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Tests spend their time in the compiler, not in what it makes: half of that time without its optimisations.
FAST_COMPILE = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",  # the workers have the cores: no parts for threads
]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (
    0,
    11,
):  # later ones abort: no such flag
    FAST_COMPILE.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(FAST_COMPILE)
# Tracing makes many objects and little garbage: by default a tenth of the time goes into looking for it.
gc.set_threshold(100_000, 20, 20)
# The partitioner says of every mesh that it "involuntarily" gathers some tensor.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Where arrays have shapes to check. In the rest, tests hand over wrong types to read the error messages.
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
    "train",
)
install_import_hook([f"mmjax.{name}" for name in CHECKED], "beartype.beartype")


@pytest.fixture
def key() -> jax.Array:
    """A PRNG key, the same in every test."""
    return jax.random.key(0)
