"""No fusion: streams are compared in the loss only."""

from mmjax.batch import Encoded
from mmjax.fusion.base import Fusion


class Late(Fusion):
    """Returns every stream unchanged (dual encoders, CLIP)."""

    streams: tuple[str, ...] = ()

    def is_causal_for(self, stream: str) -> bool:
        return True

    def __call__(self, encoded: dict[str, Encoded], train: bool = False) -> dict[str, Encoded]:
        return encoded
