"""Comparisons of mmjax's functions with those of libraries of record, by subject. None uses the network."""

import importlib
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"


def declare_operators():
    """Declares the two operators without which torchvision refuses to be imported beside torch for CPUs.

    PyPI has torchvision only with its compiled operators for CUDA. None of them is used here.
    """
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


try:
    importlib.import_module("torchvision")
except RuntimeError:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    OPERATORS = declare_operators()  # kept, since they are removed together with it
