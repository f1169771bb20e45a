"""A complete experiment that trains in seconds on eight images with captions, and helpers to read its run."""

import dataclasses
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as cache

from mmjax import training
from mmjax.checkpoint.manager import Checkpoints
from mmjax.experiment import Experiment
from mmjax.run import loop, steps

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}
SOURCE = '''
"""Single-colour images and their captions."""

from mmjax import data, encoders, evals, fusion, heads, objectives, training
from mmjax.experiment import Experiment
from mmjax.layers import Transformer
from mmjax.model import MultimodalModel

WIDTH = 16


def trunk(depth: int = 1) -> Transformer:
    return Transformer(depth=depth, width=WIDTH, num_heads=2, mlp_width=2 * WIDTH)


def dataset() -> data.Dataset:
    source = data.Npz({path!r})
    tokenizer = data.WordPiece(source, fields=("text",), vocab_size={vocab})
    return data.Dataset(
        source,
        streams={{
            "image": data.ImageTransform("image", size=(8, 8)),
            "text": data.TextTransform("text", tokenizer, length=6),
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
        optimizer=training.AdamW(peak_learning_rate=1e-3),
        evals={{"retrieval": evals.Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)}},
        log_every=1,
        save_every=2,
    )
'''
VOCAB = 41
# Replacements for `write`. Random crops, and a second objective with random masking, in each step.
RANDOM_MASKING = {
    "from mmjax import data, encoders, evals, fusion, heads, objectives, training": (
        "from mmjax import data, encoders, evals, fusion, heads, objectives, training, views"
    ),
    '"image", size=(8, 8))': '"image", size=(8, 8), crop_scale=(0.5, 1.0))',
    'for stream in ("image", "text")}},': 'for stream in ("image", "text")}}'
    ' | {{"words": heads.TokenLogits("text", after="encoder")}},',
    'objectives={{"pairs": objectives.InfoNCE("image", "text")}},': (
        'objectives={{"pairs": objectives.InfoNCE("image", "text"), "words": objectives.MaskedLanguage('
        '"words", view=views.MaskTokens("text", vocab={vocab}, rate=0.5))}},'
    ),
}


DROPOUT = {
    "mlp_width=2 * WIDTH)": "mlp_width=2 * WIDTH, dropout=0.2, scan=False)",
    "trunk(depth=2)": "trunk()",
}
ACCUMULATION = {"peak_learning_rate=1e-3": "peak_learning_rate=1e-2, accumulation_steps=2"}
NO_EVALS = {
    'evals={{"retrieval": evals.Retrieval(data=dataset(), heads=("image", "text"), batch_size=8)}},': ""
}


def write(folder: Path, replace: Mapping[str, str] | None = None) -> Path:
    """Writes the data and the experiment's file to `folder`; returns the file.

    Args:
      replace: {text that occurs once in SOURCE: its replacement}.
    """
    source = SOURCE
    for old, new in (replace or {}).items():
        assert source.count(old) == 1, f"expected once in SOURCE, found {source.count(old)} times: {old}"
        source = source.replace(old, new)
    images = np.stack([np.full((8, 8, 3), COLOURS[colour], np.uint8) for colour in COLOURS for _ in range(2)])
    texts = np.array([f"{size} {colour} square" for colour in COLOURS for size in ("big", "small")])
    np.savez(folder / "colours.npz", image=images, text=texts)
    file = folder / "tiny.py"
    file.write_text(source.format(path=str(folder / "colours.npz"), vocab=VOCAB))
    return file


def read_jsonl(file: Path) -> list[dict]:
    """The rows of a JSON Lines file, such as metrics.jsonl."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def num_logged(run_dir: Path) -> int:
    """The number of rows in metrics.jsonl; 0 before the file exists."""
    file = run_dir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def read_events(folder: Path) -> list[Any]:
    """The TensorBoard events of a folder. A TFRecord is a length, a checksum, the event and a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for file in sorted(folder.iterdir()):
        records = file.read_bytes()
        while records:
            (size,) = struct.unpack_from("<Q", records)
            events.append(Event.FromString(records[12 : 12 + size]))
            records = records[16 + size :]
    return events


def read_state(run_dir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """{path: array} of the parameters, moments, key and step of a checkpoint with valid checksums."""
    checkpoints = Checkpoints(run_dir / "checkpoints", read_only=True)
    arrays = checkpoints.restore_arrays(step)
    checkpoints.close()
    return arrays_by_path(arrays)


def arrays_by_path(state: Any) -> dict[str, np.ndarray]:
    """{path: array}, with the same paths for a train state and for the dicts of its checkpoint."""
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return {name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


def assert_same_state(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Asserts bitwise equality of two states from `read_state` or `arrays_by_path`, moments included."""
    assert found.keys() == expected.keys() and any("/nu/" in name for name in found) and "key" in found
    assert [name for name in found if found[name].tobytes() != expected[name].tobytes()] == []


CACHE = {  # caches every program, however fast it compiled
    "jax_compilation_cache_dir": "",
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def compilation_cache(folder: Path) -> Iterator[None]:
    """The body of a fixture that caches compiled programs in `folder`."""
    before = {name: getattr(jax.config, name) for name in CACHE}
    for name, value in CACHE.items():
        jax.config.update(name, value or str(folder) if name == "jax_compilation_cache_dir" else value)
    cache.reset_cache()  # JAX otherwise keeps the folder that it had at the first compilation
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    cache.reset_cache()


def cache_environment() -> dict[str, str]:
    """Environment variables with which a new process uses the current compilation cache."""
    return {name.upper(): str(getattr(jax.config, name)) for name in CACHE}


class SharedPrograms:
    """Sessions, a first state and compiled steps that several runs share: tracing takes longer than a run.

    The key of a session is its mesh, rules, balance and number of devices. Use one SharedPrograms for each
    model and seed.
    """

    def __init__(self) -> None:
        self._sessions, self._state, self._steps = {}, None, {}
        self._of, self._new_state, self._compile = loop.Session.of, loop.Session.new_state, training.jit_step

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes runs use these programs. Runs then draw no loss curves and count no FLOPs."""
        monkeypatch.setattr(loop.Session, "of", self.session)
        monkeypatch.setattr(loop.Session, "new_state", lambda session: self.new_state(session))
        monkeypatch.setattr(training, "jit_step", self.step)
        monkeypatch.setattr(steps, "train_flops", lambda *_: 1.0)
        monkeypatch.setattr(loop.curves, "training_curves", lambda *_: None)

    def session(self, experiment: Experiment, devices: list | None = None) -> loop.Session:
        """Replaces Session.of."""
        devices = jax.devices() if devices is None else devices
        key = (experiment.mesh, experiment.rules, len(devices), repr(experiment.balance))
        if key not in self._sessions:
            self._sessions[key] = self._of(experiment, devices)
        return dataclasses.replace(self._sessions[key], experiment=experiment)

    def new_state(self, session: loop.Session) -> training.TrainState:
        """Replaces Session.new_state."""
        if self._state is None:
            self._state = jax.device_get(self._new_state(session))
        return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), self._state, session.abstract)

    def step(self, learner, optimizer, abstract, mesh, rules, *, skip_nonfinite: bool = False):
        """Replaces training.jit_step."""
        key = (id(abstract), skip_nonfinite)
        if key not in self._steps:
            self._steps[key] = self._compile(
                learner, optimizer, abstract, mesh, rules, skip_nonfinite=skip_nonfinite
            )
        return self._steps[key]


def record_fault(record_property, fault: str, num_tried: int, lost: str = "nothing") -> None:
    """Records a row of the table in docs/reliability.md. Tests call it last: all tries have survived."""
    for name, value in (("fault", fault), ("tried", num_tried), ("survived", num_tried), ("lost", lost)):
        record_property(name, value)
