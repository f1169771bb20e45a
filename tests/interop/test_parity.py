"""Models read from other libraries' files give those libraries' outputs.

make_references.py wrote the files and the outputs in references/.
"""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.batch import Image, Text
from mmjax.encoders import TextTransformer
from mmjax.errors import InputError
from mmjax.interop import bert, gpt, load_pretrained, save_pretrained
from mmjax.interop.files import open_checkpoint
from mmjax.interop.pretrained import describe, flatten, nest
from mmjax.interop.weights import read, write
from mmjax.sharding import unbox

REFERENCES = Path(__file__).parent / "references"
TEXTS = {"bert": bert, "roberta": bert, "distilbert": bert, "gpt1": gpt, "gpt2": gpt}
IMAGES = ("vit", "deit", "dinov2", "dinov2_giant")
TOLERANCE = 1e-4


def reference(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(REFERENCES / name / "outputs.npz"))


def text(arrays: dict[str, np.ndarray], *, types: bool = False) -> Text:
    mask, tokens = arrays["in/mask"].astype(bool), arrays["in/tokens"].astype(np.int32)
    words = np.where(mask, np.arange(mask.shape[1])[None], -1).astype(np.int32)
    token_types = arrays["in/types"].astype(np.int32) if types else np.zeros_like(tokens)
    return jax.tree.map(jnp.asarray, Text(tokens=tokens, mask=mask, token_types=token_types, words=words))


def image(arrays: dict[str, np.ndarray]) -> Image:
    pixels = jnp.asarray(arrays["in/pixels"])
    return Image(pixels=pixels, mask=jnp.ones(len(pixels), bool))


def assert_close(found, expected, mask=None, tolerance=TOLERANCE):
    difference = np.abs(np.asarray(found, np.float32) - expected)
    assert difference[... if mask is None else mask].max() < tolerance
    assert np.abs(expected).max() > 0.1, "the reference says something"


@pytest.mark.parametrize("name", TEXTS)
def test_text_encoders_and_their_logits(name):
    expected = reference(name)
    encoder, params = load_pretrained(REFERENCES / name)
    stream = text(expected, types=name == "bert")
    encoded = encoder.apply({"params": params}, stream)
    mask = np.asarray(stream.mask)
    assert_close(encoded.embeddings, expected["out/hidden"], mask)

    checkpoint = open_checkpoint(REFERENCES / name)
    head = TEXTS[name].words_head(checkpoint.config)
    weights = list(TEXTS[name].words_weights(checkpoint.config))
    arrays = {n: checkpoint.arrays[n] for weight in weights for n in weight.theirs}
    head_params = nest(
        {path: part[(slice(None),) * len(part.shape)] for path, part in read(weights, arrays).items()}
    )
    logits = head.apply({"params": head_params}, encoded, jnp.asarray(params["table"]))
    assert_close(logits, expected["out/logits"], mask, 10 * TOLERANCE)  # logits of 30 and more


@pytest.mark.parametrize("name", IMAGES)
def test_image_encoders(name):
    expected = reference(name)
    encoder, params = load_pretrained(REFERENCES / name)
    assert_close(encoder.apply({"params": params}, image(expected)).embeddings, expected["out/hidden"])


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_in_bfloat16_and_with_layers_that_are_not_scanned(name):
    expected = reference(name)
    encoder, params = load_pretrained(REFERENCES / name)
    stream = text(expected, types=True) if name == "bert" else image(expected)
    half = encoder.clone(trunk=encoder.trunk.clone(dtype="bfloat16"))
    found = half.apply({"params": params}, stream)
    scale = np.abs(expected["out/hidden"]).max()
    assert_close(found.embeddings, expected["out/hidden"], np.asarray(found.mask), 2e-2 * scale)

    layers = params["trunk"].pop("layers")
    for i in range(encoder.trunk.depth):
        params["trunk"][f"layer_{i}"] = jax.tree.map(lambda x, i=i: x[i], layers)
    unrolled = encoder.clone(trunk=encoder.trunk.clone(scan=False))
    found = unrolled.apply({"params": params}, stream)
    assert_close(found.embeddings, expected["out/hidden"], np.asarray(found.mask))


def test_clip():
    expected = reference("clip")
    model, params = load_pretrained(REFERENCES / "clip")
    params = jax.tree.map(jnp.asarray, params)
    values = {"text": text(expected), "image": image(expected)}
    encoded = {
        stream: model.apply({"params": params}, stream, value, method="encode")
        for stream, value in values.items()
    }
    predicted = model.apply({"params": params}, encoded, ("text", "image"), method="predict")
    assert_close(encoded["text"].embeddings, expected["out/text_hidden"], np.asarray(values["text"].mask))
    for stream in values:
        assert_close(predicted[stream], expected[f"out/{stream}"])


def test_parameters_are_those_of_a_new_module():
    """So that they can be trained, sharded and saved as any others."""
    encoder, params = load_pretrained(REFERENCES / "bert")
    assert isinstance(encoder, TextTransformer)
    fresh = encoder.init(jax.random.key(0), text(reference("bert")))["params"]
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), jax.tree.map(jnp.asarray, params))
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), unbox(fresh))


def test_sharded_files(tmp_path):
    """A folder of several files with an index reads as one file."""
    from safetensors.numpy import load_file, save_file

    shutil.copy(REFERENCES / "bert" / "config.json", tmp_path)
    arrays = load_file(REFERENCES / "bert" / "model.safetensors")
    names = sorted(arrays)
    table = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: arrays[name] for name in part}, tmp_path / file)
        table |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    _, params = load_pretrained(tmp_path)
    _, expected = load_pretrained(REFERENCES / "bert")
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("name", [*TEXTS, *IMAGES, "clip"])
def test_weights_written_back_are_the_files(name):
    """Bit for bit, except what the module does not hold: heads of a single encoder, and buffers."""
    checkpoint = open_checkpoint(REFERENCES / name)
    weights = describe(checkpoint).weights
    _, params = load_pretrained(REFERENCES / name)
    written = write(weights, flatten(params))
    assert len(written) > 20
    for array_name, array in written.items():
        np.testing.assert_array_equal(array, checkpoint.arrays[array_name], err_msg=array_name)


@pytest.mark.parametrize("name", [*TEXTS, *IMAGES, "clip"])
def test_folders_written_describe_the_same_model(name, tmp_path):
    """Reading what was written gives an equal module and bit-equal parameters."""
    module, params = load_pretrained(REFERENCES / name)
    config = save_pretrained(tmp_path / "out", module, params)
    expected = json.loads((REFERENCES / name / "config.json").read_text())
    assert config["model_type"] == expected["model_type"]
    again, same = load_pretrained(tmp_path / "out")
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_a_model_without_counterpart_is_refused_with_the_nearest(tmp_path):
    module, params = load_pretrained(REFERENCES / "bert")
    odd = module.clone(hash_ngrams=(2,), trunk=module.trunk.clone(use_bias=False))
    with pytest.raises(InputError, match=r"'bert'.*\n  trunk.use_bias: True -> False\n  hash_ngrams"):
        save_pretrained(tmp_path / "out", odd, params)
    assert not (tmp_path / "out").exists()
