"""A whole experiment that runs in seconds: eight pictures with captions, and the file that trains on them."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as cache

from mmjax import train
from mmjax.experiment import Experiment
from mmjax.run import loop, steps

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}
SOURCE = '''
"""Pictures of one colour and their captions."""

from mmjax import data, encoders, evals, fusion, heads, objectives, train
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

WIDTH = 16


def trunk(depth: int = 1) -> Transformer:
    return Transformer(depth=depth, width=WIDTH, num_heads=2, mlp_width=2 * WIDTH)


def dataset() -> data.Dataset:
    source = data.Npz({path!r})
    words = data.WordPiece(source, fields=("text",), vocab_size={vocab})
    return data.Dataset(
        source,
        streams={{
            "image": data.ImageTransform("image", size=(8, 8)),
            "text": data.TextTransform("text", words, length=6),
        }},
    )


def experiment() -> Experiment:
    return Experiment(
        name="tiny",
        num_steps=4,
        data=data.Mixture({{"colours": (1.0, dataset())}}, batch_size=8),
        model=MultimodalModel(
            encoders={{
                "image": encoders.ViT(stem=encoders.LinearPatches(patch=(4, 4)), trunk=trunk()),
                "text": encoders.TextTransformer(vocab={vocab}, max_length=6, trunk=trunk(depth=2)),
            }},
            fusion=fusion.Late(),
            heads={{stream: heads.PooledEmbedding(stream, dim=8) for stream in ("image", "text")}},
        ),
        objectives={{"pairs": objectives.InfoNCE("image", "text")}},
        optimizer=train.AdamW(peak_learning_rate=1e-3),
        evals={{"retrieval": evals.Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)}},
        log_every=1,
        save_every=2,
    )
'''
VOCAB = 41
# For `write`: crops, and words hidden in a second objective; both drawn anew in each step.
DRAWN_WORDS = {
    "from mmjax import data, encoders, evals, fusion, heads, objectives, train": (
        "from mmjax import data, encoders, evals, fusion, heads, objectives, train, views"
    ),
    '"image", size=(8, 8))': '"image", size=(8, 8), crop_scale=(0.5, 1.0))',
    'for stream in ("image", "text")}},': 'for stream in ("image", "text")}}'
    ' | {{"words": heads.TokenLogits("text", after="encoder")}},',
    'objectives={{"pairs": objectives.InfoNCE("image", "text")}},': (
        'objectives={{"pairs": objectives.InfoNCE("image", "text"), "words": objectives.MaskedLanguage('
        '"words", view=views.MaskTokens("text", vocab={vocab}, rate=0.5))}},'
    ),
}


def write(folder: Path, replace: Mapping[str, str] | None = None) -> Path:
    """Writes the data and the experiment's file to ``folder``; returns the file.

    ``replace``: pieces of SOURCE and what stands there instead.
    """
    source = SOURCE
    for piece, other in (replace or {}).items():
        assert source.count(piece) == 1, (
            f"expected once in SOURCE, found {source.count(piece)} times: {piece}"
        )
        source = source.replace(piece, other)
    pictures = np.stack(
        [np.full((8, 8, 3), COLOURS[colour], np.uint8) for colour in COLOURS for _ in range(2)]
    )
    texts = np.array([f"{size} {colour} square" for colour in COLOURS for size in ("big", "small")])
    np.savez(folder / "colours.npz", image=pictures, text=texts)
    file = folder / "tiny.py"
    file.write_text(source.format(path=str(folder / "colours.npz"), vocab=VOCAB))
    return file


CACHE = {  # everything is kept, however quickly it compiled
    "jax_compilation_cache_dir": "",
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def compilation_cache(folder: Path) -> Iterator[None]:
    """The body of a fixture: within it, what was compiled once is read from ``folder``."""
    before = {name: getattr(jax.config, name) for name in CACHE}
    for name, value in CACHE.items():
        jax.config.update(name, value or str(folder) if name == "jax_compilation_cache_dir" else value)
    cache.reset_cache()  # else it keeps what it found when something first compiled
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    cache.reset_cache()


def cache_environment() -> dict[str, str]:
    """The same for processes started within it."""
    return {name.upper(): str(getattr(jax.config, name)) for name in CACHE}


class Traced:
    """Set-ups, a first state and compiled steps that runs share: tracing them takes longer than a tiny run.

    A set-up is known by its mesh, rules, balance and number of devices, so one of these serves one model and
    seed.
    """

    def __init__(self) -> None:
        self._setups, self._state, self._steps = {}, None, {}
        self._of, self._new_state, self._compile = loop.Session.of, loop.Session.new_state, train.jit_step

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on runs take what is here. They draw no loss curves and count no FLOPs."""
        monkeypatch.setattr(loop.Session, "of", self.setup)
        monkeypatch.setattr(loop.Session, "new_state", lambda setup: self.new_state(setup))
        monkeypatch.setattr(train, "jit_step", self.step)
        monkeypatch.setattr(steps, "train_flops", lambda *_: 1.0)
        monkeypatch.setattr(loop.pictures, "loss_curves", lambda *_: None)

    def setup(self, experiment: Experiment, devices: list | None = None) -> loop.Session:
        """In the place of Session.of."""
        devices = jax.devices() if devices is None else devices
        key = (experiment.mesh, experiment.rules, len(devices), repr(experiment.balance))
        if key not in self._setups:
            self._setups[key] = self._of(experiment, devices)
        return dataclasses.replace(self._setups[key], experiment=experiment)

    def new_state(self, setup: loop.Session) -> train.TrainState:
        """In the place of Session.new_state."""
        if self._state is None:
            self._state = jax.device_get(self._new_state(setup))
        return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), self._state, setup.abstract)

    def step(self, learner, optimizer, abstract, mesh, rules, *, skip_nonfinite: bool = False):
        """In the place of train.jit_step."""
        key = (id(abstract), skip_nonfinite)
        if key not in self._steps:
            self._steps[key] = self._compile(
                learner, optimizer, abstract, mesh, rules, skip_nonfinite=skip_nonfinite
            )
        return self._steps[key]


def record(record_property, fault: str, tried: int, lost: str = "nothing") -> None:
    """A row of the table in docs/reliability.md; a test comes to it only if it has survived every time."""
    for name, value in (("fault", fault), ("tried", tried), ("survived", tried), ("lost", lost)):
        record_property(name, value)
