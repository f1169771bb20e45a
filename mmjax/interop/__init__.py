"""Weights of other libraries, read into mmjax's own modules and written back. Needs no torch."""

from mmjax.interop.out import save_pretrained
from mmjax.interop.pretrained import load_pretrained

__all__ = ["load_pretrained", "save_pretrained"]
