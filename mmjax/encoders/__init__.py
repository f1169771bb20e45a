"""One modality -> Encoded."""

from mmjax.encoders.audio import ConvFrames, FramePatches, SpectrogramTransformer
from mmjax.encoders.image import ConvPatches, LinearPatches, ViT
from mmjax.encoders.spectrogram import LogMel, SpecAugment
from mmjax.encoders.text import TextTransformer

__all__ = [
    "ConvFrames", "ConvPatches", "FramePatches", "LinearPatches", "LogMel", "SpecAugment",
    "SpectrogramTransformer", "TextTransformer", "ViT",
]  # fmt: skip
