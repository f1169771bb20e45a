"""What an objective looks at: the batch as it is, with parts hidden, with streams missing, or paired anew.

A view acts in two places. `inputs` remakes some streams of the batch before they are encoded; `encodings`
re-pairs or drops what has been encoded already, which costs no encoder. The Learner encodes each distinct
input once and shares it. Views are hashable values; everything random comes from a key made of (seed, step).
"""

from mmjax.views.base import Chain, Identity, Targets, View
from mmjax.views.cutmix import CutMix
from mmjax.views.mirror import Mirror
from mmjax.views.missing import DropStreams
from mmjax.views.mixup import Mixup
from mmjax.views.pairs import HardNegatives, SentencePairs
from mmjax.views.patches import MaskPatches
from mmjax.views.prefix import Prefix, gives_prefix
from mmjax.views.same import row_checksums, same_content
from mmjax.views.spans import CorruptSpans, MaskSpans
from mmjax.views.tokens import MaskTokens

__all__ = [
    "Chain", "Identity", "CorruptSpans", "CutMix", "DropStreams", "HardNegatives", "MaskPatches", "MaskSpans",
    "MaskTokens", "Mirror", "Mixup", "SentencePairs", "Prefix", "Targets", "View", "gives_prefix", "row_checksums",
    "same_content",
]  # fmt: skip
