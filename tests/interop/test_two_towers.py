"""Models of two towers from other libraries give those libraries' outputs; their temperature comes too."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from mmjax import data, fusion, objectives
from mmjax.batch import Image, Text
from mmjax.encoders import PooledByQueries, TextTransformer
from mmjax.errors import InputError
from mmjax.experiment import load
from mmjax.heads import AttentionPooledEmbedding
from mmjax.interop import load_pretrained, save_pretrained
from mmjax.interop.files import open_checkpoint
from mmjax.interop.pretrained import describe, flatten, nest, parameter_shapes
from mmjax.interop.weights import write
from mmjax.layers import Transformer
from mmjax.run.session import Session

REFERENCES = Path(__file__).parent / "references"
NAMES = ("clip", "siglip", "chinese_clip", "open_clip", "coca")
TOLERANCE = 1e-5


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCES / name / "outputs.npz") as file:
        return dict(file)


def streams(arrays: dict[str, np.ndarray]) -> dict:
    mask, tokens = arrays["in/mask"].astype(bool), arrays["in/tokens"].astype(np.int32)
    text = Text(tokens=tokens, mask=mask, token_types=np.zeros_like(tokens), words=np.where(mask, 0, -1))
    pixels = arrays["in/pixels"]
    values = {"text": text, "image": Image(pixels=pixels, mask=np.ones(len(pixels), bool))}
    return jax.tree.map(jnp.asarray, values)


def run(model, params, values) -> tuple[dict, dict]:
    """(encodings, predictions) of a model."""

    def encode_and_predict(model, values):
        encoded = {stream: model.encode(stream, value) for stream, value in values.items()}
        return encoded, model.predict(encoded, model.head_names())

    return jax.jit(lambda params: model.apply({"params": params}, values, method=encode_and_predict))(params)


def largest_difference(found, expected) -> float:
    assert np.abs(expected).max() > 0.1, "the reference says something"
    return np.abs(np.asarray(found, np.float32) - expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_and_logits(name):
    expected = reference(name)
    model, params = load_pretrained(REFERENCES / name)
    values = streams(expected)
    encoded, predicted = run(model, params, values)
    for stream in values:
        assert largest_difference(predicted[stream], expected[f"out/{stream}"]) < TOLERANCE
        if f"out/{stream}_hidden" in expected:
            mask = np.asarray(encoded[stream].mask)
            hidden = np.asarray(encoded[stream].embeddings)[mask]
            assert largest_difference(hidden, expected[f"out/{stream}_hidden"][mask]) < 10 * TOLERANCE
    if name == "coca":
        mask = np.asarray(values["text"].mask)
        logits = np.asarray(predicted["caption"])[mask]
        assert largest_difference(logits, expected["out/caption"][mask]) < TOLERANCE
    learned = params["objective"]
    assert set(learned) == ({"log_scale", "bias"} if name == "siglip" else {"log_scale"})
    np.testing.assert_array_equal(learned["log_scale"], expected["out/scale"].reshape(()))
    if "out/logits" in expected:
        logits = np.exp(learned["log_scale"]) * predicted["text"] @ predicted["image"].T + learned.get(
            "bias", 0
        )
        assert largest_difference(logits, expected["out/logits"]) < 10 * TOLERANCE


def with_trunks(model, **fields):
    """The model, with fields of the trunks of its encoders replaced."""

    def changed(encoder):
        if isinstance(encoder, PooledByQueries):
            return encoder.clone(encoder=changed(encoder.encoder))
        return encoder.clone(trunk=encoder.trunk.clone(**fields))

    return model.clone(encoders={name: changed(each) for name, each in model.encoders.items()})


@pytest.mark.parametrize("name", NAMES)
def test_in_bfloat16_with_one_example_and_with_layers_that_are_not_scanned(name):
    expected = reference(name)
    model, params = load_pretrained(REFERENCES / name)
    values = jax.tree.map(lambda x: x[:1], streams(expected))
    _, predicted = run(with_trunks(model, dtype="bfloat16"), params, values)
    for stream in values:
        assert largest_difference(predicted[stream], expected[f"out/{stream}"][:1]) < 2e-2

    unrolled = {}
    for path, array in flatten(params).items():
        if "/layers/" in path:
            unrolled |= {path.replace("/layers/", f"/layer_{i}/"): layer for i, layer in enumerate(array)}
        else:
            unrolled[path] = array
    _, predicted = run(with_trunks(model, scan=False), nest(unrolled), values)
    for stream in values:
        assert largest_difference(predicted[stream], expected[f"out/{stream}"][:1]) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_a_new_model(name):
    described = describe(open_checkpoint(REFERENCES / name))
    _, params = load_pretrained(REFERENCES / name)
    objective = params.pop("objective")
    assert {path: x.shape for path, x in flatten(params).items()} == parameter_shapes(described)
    assert all(x.shape == () and x.dtype == np.float32 for x in objective.values())


@pytest.mark.parametrize("name", NAMES)
def test_written_back_bit_for_bit(name, tmp_path):
    checkpoint = open_checkpoint(REFERENCES / name)
    module, params = load_pretrained(REFERENCES / name)
    written = write(describe(checkpoint).weights, flatten(params))
    buffers = [each for each in checkpoint.arrays if each not in written]
    assert all(each.endswith(("position_ids", "attn_mask")) for each in buffers), buffers
    for array_name, array in written.items():
        assert array.shape == checkpoint.arrays[array_name].shape
        np.testing.assert_array_equal(array, checkpoint.arrays[array_name], err_msg=array_name)
    library = "open_clip" if name in ("open_clip", "coca") else "transformers"
    config = save_pretrained(tmp_path / "out", module, params, library=library)
    again, same = load_pretrained(tmp_path / "out")
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, same, params)
    vision = config["model_cfg"]["vision_cfg"] if library == "open_clip" else config["vision_config"]
    assert vision["image_size"] == 12


def test_clip_is_written_for_either_library(tmp_path):
    """OpenCLIP's ViT-B-32 is also transformers' CLIP, whose other files are read by both."""
    module, params = load_pretrained(REFERENCES / "clip")
    save_pretrained(tmp_path / "open", module, params, library="open_clip")
    again, same = load_pretrained(tmp_path / "open")
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, same, params)
    names = set(load_file(tmp_path / "open" / "open_clip_model.safetensors"))
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in names and "logit_scale" in names


def test_a_state_dict_alone_gives_its_sizes(tmp_path):
    """Heads have 64 channels, where no file says otherwise: of this width, there is one."""
    shutil.copy(REFERENCES / "open_clip" / "open_clip_model.safetensors", tmp_path / "weights.safetensors")
    arrays = load_file(tmp_path / "weights.safetensors")
    for i in range(2):  # mlp_ratio is 4 where nothing says otherwise
        prefix = f"transformer.resblocks.{i}.mlp"
        arrays[f"{prefix}.c_fc.weight"] = np.zeros((96, 24), np.float32)
        arrays[f"{prefix}.c_fc.bias"] = np.zeros(96, np.float32)
        arrays[f"{prefix}.c_proj.weight"] = np.zeros((24, 96), np.float32)
    save_file(arrays, tmp_path / "weights.safetensors")
    model, params = load_pretrained(tmp_path / "weights.safetensors")
    given, _ = load_pretrained(REFERENCES / "open_clip")
    text, image = model.encoders["text"], model.encoders["image"]
    assert (text.vocab, text.max_length) == (50, 9) and image.stem == given.encoders["image"].stem
    assert (image.trunk.num_heads, text.trunk.num_heads, image.trunk.activation) == (1, 1, "gelu")
    assert params["encoders_image"]["positions"]["table"].shape == (10, 16)


@pytest.mark.parametrize(
    "part, options, message",
    [
        ("vision_cfg", {"attentional_pool": True}, "expected 'attentional_pool'.*found True"),
        ("vision_cfg", {"timm_model_name": "vit"}, "expected 'timm_model_name'"),
        ("text_cfg", {"no_causal_mask": True}, "expected 'no_causal_mask'"),
        ("text_cfg", {"width": -3}, "a whole number 'width'"),
        ("vision_cfg", {"head_width": 5}, "do not fit together|of the form"),
        ("text_cfg", {"layers": 3}, "missing"),
    ],
)
def test_other_models_of_open_clip_are_refused(part, options, message, tmp_path):
    shutil.copytree(REFERENCES / "open_clip", tmp_path / "copy")
    file = tmp_path / "copy" / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"][part] |= options
    file.chmod(0o644)
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load_pretrained(tmp_path / "copy")


def test_texts_without_any_token_stay_masked_where_padding_is_read():
    trunk = Transformer.of(1, 8, num_heads=2)
    encoder = TextTransformer(vocab=9, trunk=trunk, max_length=4, reads_padding=True)
    tokens = jnp.array([[3, 4, 1, 1], [1, 1, 1, 1]])
    text = Text(tokens=tokens, mask=tokens > 1, token_types=tokens * 0, words=tokens * 0)
    params = encoder.init(jax.random.key(0), text)
    found = encoder.apply(params, text)
    np.testing.assert_array_equal(found.mask, [[True] * 4, [False] * 4])
    changed = encoder.apply(params, text.replace(tokens=text.tokens.at[0, 3].set(2)))
    assert np.abs(found.embeddings - changed.embeddings)[0, 0].max() > 1e-4


def test_the_decoder_of_coca_reads_images_and_no_later_words():
    model, params = load_pretrained(REFERENCES / "coca")
    values = streams(reference("coca"))
    _, found = run(model, params, values)
    text = values["text"]
    _, later = run(model, params, values | {"text": text.replace(tokens=text.tokens.at[0, 5].add(1))})
    difference = np.abs(np.asarray(later["caption"] - found["caption"]))[0].max(-1)
    assert difference[:5].max() == 0 < difference[5:].min()
    other = values["image"].replace(pixels=values["image"].pixels + 1)
    assert np.abs(run(model, params, values | {"image": other})[1]["caption"] - found["caption"]).max() > 0.01
    # A missing image changes nothing, whatever its pixels are.
    missing = [image.replace(mask=image.mask & False) for image in (values["image"], other)]
    first, second = (run(model, params, values | {"image": image})[1]["caption"] for image in missing)
    np.testing.assert_array_equal(first, second)


def test_a_head_of_another_width_is_refused():
    model, params = load_pretrained(REFERENCES / "siglip")
    head = model.heads["image"]
    assert isinstance(head, AttentionPooledEmbedding)
    wrong = model.clone(heads={**model.heads, "image": head.clone(dim=8)})
    with pytest.raises(InputError, match="of width dim=8, and 'image' has 16"):
        run(wrong, params, streams(reference("siglip")))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("two_towers"), tiny.NO_EVALS)


def experiment(file: Path, name: str, init_from):
    """The tiny experiment with the model of a reference."""
    value = load(file)
    model, _ = load_pretrained(REFERENCES / name)
    sizes = {"text": data.TextTransform, "image": data.ImageTransform}
    assert set(sizes) <= set(value.model.encoders)
    objective = objectives.SigmoidPairs if name == "siglip" else objectives.InfoNCE
    pairs = {"pairs": objective("image", "text")}
    model = model.clone(fusion=fusion.Late(streams=("image", "text")))
    return dataclasses.replace(value, model=model, objectives=pairs, init_from=init_from)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_objective_starts_from_the_file(file, name):
    folder = str(REFERENCES / name)
    _, params = load_pretrained(folder)
    learned = params.pop("objective")
    state = Session.of(experiment(file, name, folder), jax.devices()[:1]).new_state()
    assert set(state.params["objectives_pairs"]) == set(learned)
    for key, value in learned.items():
        np.testing.assert_array_equal(state.params["objectives_pairs"][key], value)
    found = flatten(state.params["model"])
    for path, array in flatten(params).items():
        if not path.endswith("positions/table") and path in found:
            np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_one_tower_one_head_and_the_objective_by_name(file):
    folder = str(REFERENCES / "siglip")
    _, params = load_pretrained(folder)
    parts = {"encoders.text": folder, "heads.image": folder, "objectives.pairs": folder}
    devices = jax.devices()[:1]
    found = Session.of(experiment(file, "siglip", parts), devices).new_state().params
    fresh = Session.of(experiment(file, "siglip", None), devices).new_state().params
    np.testing.assert_array_equal(found["objectives_pairs"]["bias"], params["objective"]["bias"])
    for part in ("encoders_text", "heads_image"):
        jax.tree.map(np.testing.assert_array_equal, found["model"][part], params[part])
    for part in ("encoders_image", "heads_text"):
        jax.tree.map(np.testing.assert_array_equal, found["model"][part], fresh["model"][part])


def test_an_objective_that_learns_something_else_is_refused(file):
    value = experiment(file, "clip", {"objectives.pairs": str(REFERENCES / "siglip")})
    with pytest.raises(InputError, match=r"gives objectives\.pairs.*left over: objectives_pairs/bias"):
        Session.of(value, jax.devices()[:1]).new_state()
