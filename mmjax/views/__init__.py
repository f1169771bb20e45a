"""Views: how an objective changes the batch, by masking, dropping, mixing or re-pairing.

`View.transform_batch` changes streams before they are encoded. `View.transform_encoded` drops or re-pairs
encodings, which needs no further encoder pass. The Learner encodes each distinct input once per step. Views
are hashable values, and all randomness comes from a key derived from (seed, step).
"""

from mmjax.views.base import Chain, Identity, Targets, View
from mmjax.views.checksums import equal_rows, remember_contents, row_checksums, row_contents
from mmjax.views.cutmix import CutMix
from mmjax.views.drop_streams import DropStreams
from mmjax.views.flip import Flip
from mmjax.views.mixup import Mixup
from mmjax.views.pairs import HardNegatives, SentencePairs
from mmjax.views.patches import MaskPatches
from mmjax.views.prefix import Prefix, marks_prefix
from mmjax.views.spans import CorruptSpans, MaskSpans
from mmjax.views.tokens import MaskTokens

__all__ = [
    "Chain", "CorruptSpans", "CutMix", "DropStreams", "Flip", "HardNegatives", "Identity", "MaskPatches",
    "MaskSpans", "MaskTokens", "Mixup", "Prefix", "SentencePairs", "Targets", "View", "equal_rows",
    "marks_prefix", "remember_contents", "row_checksums", "row_contents",
]  # fmt: skip
