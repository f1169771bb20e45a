"""Types that fields of an experiment declare: numbers with their ranges (`depth: Depth`), and choices.

`mmjax.spec` refuses a value out of its field's range. NaN is outside every range, and so is infinity. The
largest integers are far above any useful value: they refuse a slip such as `batch_size=1000000000` before it
fills the memory.
"""

import math
import operator
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Interval

MAX_INT = 2**31 - 1  # steps and indices are int32 on the device

Count: TypeAlias = Annotated[int, Interval(ge=1, le=MAX_INT)]
Whole: TypeAlias = Annotated[int, Interval(ge=0, le=MAX_INT)]
Size: TypeAlias = Annotated[int, Interval(ge=1, le=2**20)]  # of one axis: rows, positions, channels, classes
SizeOrZero: TypeAlias = Annotated[int, Interval(ge=0, le=2**20)]
Vocab: TypeAlias = Annotated[int, Interval(ge=1, le=2**24)]  # rows of a table
Depth: TypeAlias = Annotated[int, Interval(ge=1, le=1000)]  # layers
Kernel: TypeAlias = Annotated[int, Interval(ge=1, le=1000)]  # the side or stride of a convolution
Seed: TypeAlias = Annotated[int, Interval(ge=0, le=2**32 - 1)]
Pixel: TypeAlias = Annotated[int, Interval(ge=0, le=255)]  # a grey level

Finite: TypeAlias = Annotated[float, Interval(gt=-math.inf, lt=math.inf)]
Positive: TypeAlias = Annotated[float, Interval(gt=0, lt=math.inf)]
NonNegative: TypeAlias = Annotated[float, Interval(ge=0, lt=math.inf)]
Rate: TypeAlias = Annotated[float, Interval(gt=0, le=1e30)]  # of learning, a float32
Fraction: TypeAlias = Annotated[float, Interval(ge=0, le=1)]  # also a probability
PositiveFraction: TypeAlias = Annotated[float, Interval(gt=0, le=1)]
Decay: TypeAlias = Annotated[float, Interval(ge=0, lt=1)]  # of a running mean; also dropout
OpenFraction: TypeAlias = Annotated[float, Interval(gt=0, lt=1)]

Dtype: TypeAlias = Literal[
    "float32", "bfloat16", "float16"
]  # of a module's arithmetic; parameters are float32
Activation: TypeAlias = Literal[  # of layers/mlp.py
    "gelu", "gelu_tanh", "quick_gelu", "relu", "leaky_relu", "silu"
]


def describe(interval: Interval) -> str:
    """The range in words.

    >>> describe(Interval(gt=0, lt=math.inf)), describe(Interval(ge=1, le=2**20))
    ('above 0, finite', 'from 1 to 1,048,576')
    """
    low = interval.ge if interval.ge is not None else interval.gt
    high = interval.le if interval.le is not None else interval.lt
    if interval.ge is not None and interval.le is not None:
        return f"from {low:,} to {high:,}"
    parts = []
    if low is not None and low != -math.inf:
        parts.append(f"{'at least' if interval.ge is not None else 'above'} {low:,}")
    if high == math.inf:
        parts.append("finite")
    elif high is not None:
        parts.append(f"{'at most' if interval.le is not None else 'below'} {high:,}")
    return ", ".join(parts)


def contains(interval: Interval, value: float) -> bool:
    """Whether the value is in the range. NaN never is, because each comparison with it is False."""
    bounds: tuple[Any, ...] = (interval.gt, interval.ge, interval.lt, interval.le)
    comparisons = (operator.gt, operator.ge, operator.lt, operator.le)
    return all(
        bound is None or compare(value, bound) for bound, compare in zip(bounds, comparisons, strict=True)
    )
