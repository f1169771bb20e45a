"""What an objective is given."""

from flax import struct

from mmjax.batch import Array, Batch


@struct.dataclass
class Outputs:
    """All that one view of a batch showed."""

    predictions: dict[str, Array]  # head -> prediction
    targets: dict[str, Array]  # the view's own
    batch: Batch  # the view's inputs


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean of values where mask is True; 0 where it is True nowhere, so an empty batch trains without a NaN."""
    weight = mask.astype(values.dtype)
    return (values * weight).sum() / weight.sum().clip(1)
