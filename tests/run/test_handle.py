"""The Python interface: `mmjax.load`, `mmjax.train`, `mmjax.open_run` and the Run that they return."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from safetensors.numpy import load_file

import mmjax
from mmjax import data
from mmjax.errors import InputError
from mmjax.views import Identity

COLOURS = [np.full((8, 8, 3), colour, np.uint8) for colour in tiny.COLOURS.values()]
TEXTS = [f"{size} {colour} square" for colour in tiny.COLOURS for size in ("big", "small")]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> mmjax.Run:
    """A trained run."""
    folder = tmp_path_factory.mktemp("handle")
    experiment = mmjax.load(tiny.write(folder), ["num_steps=2"])
    return mmjax.train(experiment, folder / "run", devices=jax.devices()[:1])


def test_import_of_mmjax_does_not_import_jax():
    program = "import sys, mmjax; print(mmjax.__dir__()[-6:], 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "['Experiment', 'Run', 'load', 'load_pretrained', 'open_run', 'train'] False"
    )
    with pytest.raises(AttributeError, match="module 'mmjax' has no attribute 'nosuch'"):
        mmjax.nosuch  # noqa: B018


def test_opened_run_equals_the_trained_run(run):
    opened = mmjax.open_run(run.folder.path)
    assert (opened.step, opened.experiment) == (2, run.experiment)
    assert opened.results == run.results and "image->text/R@5" in opened.results["retrieval"]
    for name, value in run.parameters().items():
        np.testing.assert_array_equal(opened.parameters()[name], value)
    assert repr(opened) == f"Run({str(run.folder.path)!r}, step=2)"


def test_open_run_refuses_other_folders(tmp_path):
    with pytest.raises(InputError, match="expected the folder of a run"):
        mmjax.open_run(tmp_path)


def test_metrics_have_a_row_for_each_step(run):
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2] and rows[0]["loss"] > 0


def test_to_pandas_without_pandas_says_how_to_install_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # importing it now raises ImportError
    with pytest.raises(InputError, match="pip install pandas"):
        run.metrics().to_pandas()


def test_predict_and_embed_give_the_same_embeddings(run):
    batch = next(data.epoch(run.experiment.evals["retrieval"].data, batch_size=8))
    predictions = run.predict(batch)
    assert {name: array.shape for name, array in predictions.items()} == {"image": (8, 8), "text": (8, 8)}
    np.testing.assert_array_equal(run.predict(batch, ["image"], Identity())["image"], predictions["image"])
    # The dataset has two rows for each colour.
    np.testing.assert_allclose(run.embed(text=TEXTS, batch_size=8), predictions["text"], atol=1e-6)
    np.testing.assert_allclose(run.embed(image=COLOURS, batch_size=8), predictions["image"][::2], atol=1e-6)
    with pytest.raises(InputError, match=r"expected heads among \['image', 'text'\], found \['nosuch'\]"):
        run.predict(batch, ["nosuch"])


def test_embed_decodes_paths_and_bytes_and_pads_batches(run, tmp_path):
    for number, pixels in enumerate(COLOURS):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    expected = run.embed(image=COLOURS)
    np.testing.assert_allclose(run.embed(image=paths, batch_size=3), expected, atol=1e-6)
    np.testing.assert_allclose(run.embed(image=[str(path) for path in paths]), expected, atol=1e-6)
    np.testing.assert_allclose(run.embed(image=[path.read_bytes() for path in paths]), expected, atol=1e-6)
    both = run.embed(image=paths[:1], text=TEXTS[:2])
    assert {stream: array.shape for stream, array in both.items()} == {"image": (1, 8), "text": (2, 8)}
    np.testing.assert_allclose(run.embed(head="image", image=paths[:1]), expected[:1], atol=1e-6)


def test_embed_of_no_inputs_has_no_rows(run):
    assert run.embed(text=[]).shape == (0, 8)


def test_words_of_another_vocabulary_are_refused(run, tmp_path):
    """A vocabulary is trained anew when the run is opened: with other data, the same words have other ids."""
    copy = shutil.copytree(run.folder.path, tmp_path / "copy")
    digests = json.loads((copy / "vocabularies.json").read_text())
    (copy / "vocabularies.json").write_text(json.dumps(dict.fromkeys(digests, "another")))
    opened = mmjax.open_run(copy)
    assert opened.embed(image=COLOURS).shape == (4, 8)  # reads no words
    for use in (lambda: opened.embed(text=TEXTS), lambda: opened.evaluate("retrieval")):
        with pytest.raises(InputError, match="expected the vocabularies that .* was trained with"):
            use()


def test_embed_takes_missing_modalities_with_a_head(run):
    embeddings = run.embed(head="image", image=[COLOURS[0], None, COLOURS[1]])
    np.testing.assert_allclose(embeddings[::2], run.embed(image=COLOURS[:2]), atol=1e-6)
    assert np.isfinite(embeddings).all() and embeddings.shape == (3, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected inputs by stream, such as embed(image=[...]), found none"),
        ({"video": [1]}, "expected one embedding head for the stream 'video', found []"),
        ({"image": ["nosuch.png"]}, "image[0], nosuch.png: expected a file, found none"),
        ({"image": [COLOURS[0], b"GIF"]}, "image[1]: "),
        ({"text": ["a dog", " "]}, "text[1]: expected text in 'text'"),
        ({"text": "a dog"}, "text expects a list of inputs, found one str"),
        ({"text": ["a dog", None]}, "text expects inputs, found None: set head=... for missing ones"),
        ({"image": [os.devnull]}, "image[0], /dev/null: expected a file, found none"),
        (
            {"head": "nosuch", "text": ["a"]},
            "expected an embedding head among ['image', 'text'], found 'nosuch'",
        ),
        ({"head": "image", "text": ["a"]}, "the head 'image' reads ['image'], found inputs for ['text']"),
        ({"head": "image", "image": [1], "text": []}, "head='image' expects one entry for each example"),
    ],
)
def test_embed_refuses(run, arguments, message):
    with pytest.raises(InputError) as refusal:
        run.embed(**arguments)
    assert message in str(refusal.value)


def test_evaluate_takes_other_data_and_fields(run):
    measured = run.evaluate("retrieval")
    assert measured == run.results["retrieval"]
    assert (
        run.evaluate(run.experiment.evals["retrieval"], str(run.folder.path.parent / "colours.npz"))
        == measured
    )
    assert run.evaluate("retrieval", limit=4)["image->text/num_queries"] == 4
    for arguments, message in (
        ({"evaluation": "nosuch"}, r"expected an evaluation among \['retrieval'\], found 'nosuch'"),
        ({"evaluation": "retrieval", "nosuch": 1}, r"Retrieval expects fields among \[.*found \['nosuch'\]"),
        ({"evaluation": "retrieval", "heads": ("image", "x")}, "needs the streams|reads the heads"),
    ):
        with pytest.raises(InputError, match=message):
            run.evaluate(**arguments)


def test_data_without_a_modality_need_an_optional_transform(run, tmp_path):
    np.savez(tmp_path / "images.npz", image=np.stack(COLOURS))
    dataset = run.experiment.evals["retrieval"].data
    with pytest.raises(InputError, match="text"):
        run.evaluate("retrieval", tmp_path / "images.npz")
    optional = mmjax.experiment.override(dataset, "streams.text.optional=true")
    optional = data.with_path(optional, str(tmp_path / "images.npz"))
    batch = next(data.epoch(optional, batch_size=4))
    assert batch["image"].mask.all() and not batch["text"].mask.any()
    with pytest.raises(InputError, match="no example"):  # no text to retrieve
        run.evaluate("retrieval", optional)


def test_save_writes_the_parameters(run, tmp_path):
    run.save(tmp_path / "x.safetensors")
    arrays = load_file(tmp_path / "x.safetensors")
    assert arrays.keys() == run.parameters().keys()
    with pytest.raises(InputError, match="ends in .safetensors"):
        run.save(tmp_path / "x.npz")
