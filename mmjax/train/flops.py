"""Arithmetic of a function, counted from its jaxpr: exact for matrix products, whatever the model."""

import math
from collections.abc import Callable

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from mmjax.train.accelerators import ACCELERATORS

# Dense bf16 FLOP/s a device, from the vendors' data sheets; by jax's device_kind.
PEAK_FLOPS = {name: accelerator.flops for name, accelerator in ACCELERATORS.items()} | {
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def count(function: Callable, *args) -> float:
    """FLOPs of `function(*args)`: two for each multiply-add of its matrix products and convolutions.

    args may be ShapeDtypeStructs. Loops count as often as they run. Element-wise work is left out, as in
    published figures of MFU.
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
    """FLOPs of one train step: three forward passes (backward counts two; recomputation counts nothing)."""

    def forward(params, batch):
        keys = {"dropout": jax.random.key(0), "views": jax.random.key(0)}
        return learner.apply({"params": params}, batch, train=True, rngs=keys)[0]

    return 3 * count(forward, params, batch)


def mfu(flops_per_second: float, devices) -> float | None:
    """Share of the devices' peak that `flops_per_second` is; None where the peak is not known."""
    peak = PEAK_FLOPS.get(devices[0].device_kind)
    return None if peak is None else flops_per_second / (peak * len(devices))
