"""FLOPs of a function, counted in its jaxpr: exact for matrix products and convolutions of any model."""

import math
from collections.abc import Callable

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from mmjax.training.accelerators import ACCELERATORS

# Dense bf16 FLOP/s of one device, from the vendors' data sheets, by jax's device_kind.
PEAK_FLOPS = {name: accelerator.flops for name, accelerator in ACCELERATORS.items()} | {
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def count(function: Callable, *args) -> float:
    """FLOPs of `function(*args)`: two for each multiply-add of its matrix products and convolutions.

    Each iteration of a `scan` counts. Element-wise operations do not, as in published figures of MFU. The
    arguments may be ShapeDtypeStructs.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [
            value.jaxpr if isinstance(value, ClosedJaxpr) else value
            for parameter in equation.params.values()
            for value in (parameter if isinstance(parameter, (tuple, list)) else (parameter,))
            if isinstance(value, (Jaxpr, ClosedJaxpr))
        ]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel, outputs = equation.invars[1].aval.shape, equation.outvars[0].aval
            channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(outputs.shape) * math.prod(kernel) / channels
        elif equation.primitive.name == "scan":
            total += equation.params["length"] * sum(map(_count, inner))
        elif equation.primitive.name == "cond":
            total += max(map(_count, inner))
        else:
            total += sum(map(_count, inner))
    return total


def train_flops(learner, params, batch) -> float:
    """FLOPs of one train step: three times the forward pass. Recomputation by remat does not count."""

    def forward(params, batch):
        keys = {"dropout": jax.random.key(0), "views": jax.random.key(0)}
        return learner.apply({"params": params}, batch, train=True, rngs=keys)[0]

    return 3 * count(forward, params, batch)


def mfu(flops_per_second: float, devices) -> float | None:
    """Model FLOPs utilization: the fraction of the devices' peak; None if the peak is unknown."""
    peak = PEAK_FLOPS.get(devices[0].device_kind)
    return None if peak is None else flops_per_second / (peak * len(devices))
