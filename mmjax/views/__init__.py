"""What an objective looks at: the batch as it is, with words masked, with streams missing, or paired anew.

A view acts in two places. `inputs` remakes some streams of the batch before they are encoded; `encodings`
re-pairs or drops what has been encoded already, which costs no encoder. The Learner encodes each distinct
input once and shares it. Views are hashable values; everything random comes from a key made of (seed, step).
"""

from mmjax.views.base import Chain, Clean, Targets
from mmjax.views.mirror import Mirror
from mmjax.views.missing import Drop
from mmjax.views.pairs import HardNegatives, Pairs
from mmjax.views.same import row_checksums, same_content
from mmjax.views.tokens import MaskTokens

__all__ = [
    "Chain", "Clean", "Drop", "HardNegatives", "MaskTokens", "Mirror", "Pairs", "Targets", "row_checksums",
    "same_content",
]  # fmt: skip
