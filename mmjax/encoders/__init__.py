"""Encoders: one stream -> Encoded."""

from mmjax.encoders.adversarial import AdversarialSpectrogram, SpectrogramGenerator
from mmjax.encoders.audio import ConvFrames, FramePatches, SpectrogramTransformer
from mmjax.encoders.base import Encoder
from mmjax.encoders.convnext import ConvNeXtStem
from mmjax.encoders.convolutional import ConvSpectrogram, SpectrogramCNN
from mmjax.encoders.image import ConvPatches, LinearPatches, ViT
from mmjax.encoders.navit import NaViT
from mmjax.encoders.packing import Packing
from mmjax.encoders.queries import PooledByQueries
from mmjax.encoders.recurrent import RecurrentText
from mmjax.encoders.resnet import ResNet
from mmjax.encoders.spectrogram import LogMel, SpecAugment
from mmjax.encoders.text import TextTransformer
from mmjax.encoders.video import FactorisedVideo, Tubelets, TubeletTransformer
from mmjax.encoders.waveform import ConvPositions, ConvWaveform, WaveformTransformer

__all__ = [
    "AdversarialSpectrogram", "ConvFrames", "ConvNeXtStem", "ConvPatches", "ConvPositions",
    "ConvSpectrogram", "ConvWaveform", "Encoder", "FactorisedVideo", "FramePatches", "LinearPatches",
    "LogMel", "NaViT", "Packing", "PooledByQueries", "RecurrentText", "ResNet", "SpecAugment",
    "SpectrogramCNN", "SpectrogramGenerator", "SpectrogramTransformer", "TextTransformer",
    "TubeletTransformer", "Tubelets", "ViT", "WaveformTransformer",
]  # fmt: skip
