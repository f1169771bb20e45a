"""mmjax: pretrain models that read text, images and audio together, in JAX and Flax.

    experiment = mmjax.load("experiments/quickstart.py", ["num_steps=2000"])
    run = mmjax.train(experiment, "runs/quickstart")  # later: mmjax.open_run("runs/quickstart")
    run.embed(image=["a.png", "b.jpg"])               # "2 E"
    encoder, params = mmjax.load_pretrained("bert-base-uncased")  # a folder with config.json and safetensors

These names are imported at their first use (PEP 562): `import mmjax` itself imports nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmjax.experiment import Experiment, load
    from mmjax.interop import load_pretrained
    from mmjax.run.handle import Run, open_run
    from mmjax.run.handle import train_run as train

__version__ = "0.3.0"
__all__ = ["Experiment", "Run", "load", "load_pretrained", "open_run", "train"]


def __getattr__(name: str) -> Any:
    if name in ("Experiment", "load"):
        from mmjax import experiment

        return getattr(experiment, name)
    if name == "load_pretrained":
        from mmjax.interop import load_pretrained

        return load_pretrained
    if name in ("Run", "open_run", "train"):
        from mmjax.run import handle

        return handle.train_run if name == "train" else getattr(handle, name)
    raise AttributeError(f"module 'mmjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
