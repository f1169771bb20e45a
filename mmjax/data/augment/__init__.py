"""Random augmentation in training, and rules that keep examples consistent across streams."""

from mmjax.data.augment.audio import AudioAugmentation, Background, Noise, Speed
from mmjax.data.augment.base import CHANGES, Augmentation, Change
from mmjax.data.augment.image import ColorJitter, ImageAugmentation, RandomErasing
from mmjax.data.augment.joint import COLOR_WORDS, SIDE_WORDS, ForbidChanges, Rule, ShareGeometry
from mmjax.data.augment.rand_augment import OPERATIONS, RandAugment
from mmjax.data.augment.text import SpanDropout, TextAugmentation, WordDropout

__all__ = [
    "CHANGES", "COLOR_WORDS", "OPERATIONS", "SIDE_WORDS", "Augmentation", "AudioAugmentation", "Background",
    "Change", "ColorJitter", "ForbidChanges", "ImageAugmentation", "Noise", "RandAugment", "RandomErasing",
    "Rule", "ShareGeometry", "SpanDropout", "Speed", "TextAugmentation", "WordDropout",
]  # fmt: skip
