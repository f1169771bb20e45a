"""Models of audio read from other libraries' files give those libraries' outputs, as test_parity.py's."""

import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax import fusion, heads, objectives
from mmjax.batch import Audio, Text
from mmjax.encoders import LogMel, SpecAugment
from mmjax.errors import InputError
from mmjax.interop import load_pretrained, save_pretrained, wav2vec2
from mmjax.interop.files import open_checkpoint
from mmjax.interop.initial import initial_parts
from mmjax.interop.pretrained import describe, flatten
from mmjax.interop.weights import write
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.sharding import unbox

REFERENCES = Path(__file__).parent / "references"
TOLERANCE = 1e-4
WAVEFORMS = ("wav2vec2_base", "wav2vec2_large", "hubert")
NAMES = ("whisper", "ast", *WAVEFORMS)


def reference(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(REFERENCES / name / "outputs.npz"))


def load(name: str):
    module, params = load_pretrained(REFERENCES / name)
    return module, jax.tree.map(jnp.asarray, params)


def audio(samples: np.ndarray, lengths: np.ndarray) -> Audio:
    mask = np.arange(samples.shape[1])[None] < lengths[:, None]
    # Masked samples must not matter.
    samples = np.where(mask, np.float32(samples / 32_768), 0.7)
    return Audio(samples=jnp.asarray(samples), mask=jnp.asarray(mask))


def text(arrays: dict[str, np.ndarray]) -> Text:
    mask, tokens = arrays["in/mask"].astype(bool), arrays["in/tokens"].astype(np.int32)
    words = np.where(mask, np.arange(mask.shape[1])[None], -1).astype(np.int32)
    value = Text(tokens=np.where(mask, tokens, 7), mask=mask, token_types=np.zeros_like(tokens), words=words)
    return jax.tree.map(jnp.asarray, value)


def assert_close(found, expected, mask=None, tolerance=TOLERANCE):
    difference = np.abs(np.asarray(found, np.float32) - expected)
    assert difference[... if mask is None else mask].max() < tolerance
    assert np.abs(expected).max() > 0.1, "the reference says something"


def predict(model, params, streams: dict) -> tuple[dict, dict]:
    """The encodings and the predictions of a MultimodalModel."""

    def run(params):
        return model.apply({"params": params}, streams, method=encode_and_predict)

    return jax.jit(run)(params)


def encode_and_predict(model, streams):
    encoded = {name: model.encode(name, value) for name, value in streams.items()}
    return encoded, model.predict(encoded, model.head_names())


def whisper_streams(expected, rows=slice(None)) -> dict:
    streams = {"audio": audio(expected["in/samples"], expected["in/lengths"]), "text": text(expected)}
    return jax.tree.map(lambda x: x[rows], streams)


def test_whispers_encoder_of_features():
    expected = reference("whisper")
    model, params = load("whisper")
    encoder, mel = model.encoders["audio"], jnp.asarray(expected["in/mel"])
    found = encoder.apply(
        {"params": params["encoders_audio"]}, mel, jnp.ones(mel.shape[:2], bool), method="encode_mel"
    )
    assert_close(found.embeddings, expected["out/audio"])


@pytest.mark.parametrize("rows", [slice(None), slice(2, 3)], ids=["three", "one"])
def test_whisper_of_samples_and_ragged_texts(rows):
    expected = reference("whisper")
    model, params = load("whisper")
    streams = whisper_streams(expected, rows)
    encoded, predicted = predict(model, params, streams)
    assert encoded["audio"].mask.all(), "the silence to which a clip is padded is attended to, as in Whisper"
    assert_close(encoded["audio"].embeddings, expected["out/audio"][rows])
    assert_close(predicted["text"], expected["out/logits"][rows], np.asarray(streams["text"].mask))


def test_the_features_are_whispers_whatever_the_padding():
    expected = reference("whisper")
    model, _ = load("whisper")
    value = whisper_streams(expected)["audio"]
    found, mask = model.encoders["audio"].mel(value.samples, value.mask)
    assert mask.all()
    assert_close(found, expected["in/mel"], tolerance=1e-3)
    longer = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 999))), value)
    again, _ = model.encoders["audio"].mel(longer.samples, longer.mask)
    np.testing.assert_array_equal(again, found)
    shorter = jax.tree.map(lambda x: x[2:, :1800], value)
    again, _ = model.encoders["audio"].mel(shorter.samples, shorter.mask)
    np.testing.assert_allclose(again, found[2:], atol=1e-5)
    _, mask = model.encoders["audio"].mel(value.samples, jnp.zeros_like(value.mask))
    assert not mask.any(), "a missing clip has no silence either"


def test_a_shorter_clip_costs_less_and_its_text_reads_only_what_is_valid():
    """With clip_seconds=None a clip is not padded: the same parameters, fewer positions, a mask."""
    model, params = load("whisper")
    short = model.encoders["audio"].clone(mel=model.encoders["audio"].mel.whisper(16))
    model = model.clone(encoders={**model.encoders, "audio": short})
    streams = whisper_streams(reference("whisper"), slice(2, 3))
    streams["audio"] = jax.tree.map(lambda x: x[:, :2400], streams["audio"])
    encoded, predicted = predict(model, params, streams)
    assert encoded["audio"].mask.sum() == 6 and encoded["audio"].mask.shape == (1, 8)
    cut = jax.tree.map(lambda x: x[:, :1920], streams["audio"])
    assert_close(predict(model, params, streams | {"audio": cut})[1]["text"], np.asarray(predicted["text"]))


def test_whisper_in_bfloat16_and_with_layers_that_are_not_scanned():
    expected = reference("whisper")
    model, params = load("whisper")
    streams = whisper_streams(expected)
    mask = np.asarray(streams["text"].mask)

    def with_trunks(**changes):
        audio, decoder = model.encoders["audio"], model.fusion
        audio = audio.clone(trunk=audio.trunk.clone(**changes))
        return model.clone(
            encoders={**model.encoders, "audio": audio},
            fusion=decoder.clone(trunk=decoder.trunk.clone(**changes)),
        )

    scale = np.abs(expected["out/logits"]).max()
    half = predict(with_trunks(dtype="bfloat16"), params, streams)[1]["text"]
    assert_close(half, expected["out/logits"], mask, 2e-2 * scale)
    for trunk in (params["encoders_audio"]["trunk"], params["fusion"]["trunk"]):
        layers = trunk.pop("layers")
        trunk |= {f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], layers) for i in range(2)}
    unrolled = predict(with_trunks(scan=False), params, streams)[1]["text"]
    assert_close(unrolled, expected["out/logits"], mask)


def test_parameters_are_those_of_a_new_model_and_train_by_teacher_forcing():
    model, params = load("whisper")
    streams = whisper_streams(reference("whisper"))
    fresh = unbox(model.init(jax.random.key(0), streams, method=encode_and_predict))["params"]
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), fresh)

    learner = Learner(model=model, objectives={"speech": objectives.CausalLanguage("text")})
    assert objectives.CausalLanguage("text").check_compatible(model, {}) is None

    def loss(params):
        rngs = {"views": jax.random.key(0)}
        return learner.apply({"params": {"model": params}}, streams, rngs=rngs)[0]

    grads = flatten(jax.jit(jax.grad(loss))(params))
    assert len(grads) > 40 and all(np.abs(grad).max() > 0 for grad in grads.values())


@pytest.mark.parametrize("rows", [slice(None), slice(2, 3)], ids=["three", "one"])
def test_ast_of_features_and_of_samples(rows):
    expected = reference("ast")
    encoder, params = load("ast")
    mel = jnp.asarray(expected["in/mel"])[rows]
    clip = jax.tree.map(lambda x: x[rows], audio(expected["in/samples"], expected["in/lengths"]))
    features, mask = encoder.mel(clip.samples, clip.mask)
    assert mask.all(), "frames of silence count"
    assert_close(features, mel, tolerance=1e-3)
    by_mel = encoder.apply({"params": params}, mel, mask, method="encode_mel")
    assert_close(by_mel.embeddings, expected["out/audio"][rows])
    assert_close(
        encoder.apply({"params": params}, clip).embeddings, expected["out/audio"][rows], tolerance=1e-3
    )


def test_ast_in_bfloat16_and_its_parameters():
    expected = reference("ast")
    encoder, params = load("ast")
    clip = audio(expected["in/samples"], expected["in/lengths"])
    half = encoder.clone(trunk=encoder.trunk.clone(dtype="bfloat16")).apply({"params": params}, clip)
    assert_close(half.embeddings, expected["out/audio"], tolerance=2e-2 * np.abs(expected["out/audio"]).max())
    fresh = unbox(encoder.init(jax.random.key(0), clip))["params"]
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), fresh)
    missing = clip.replace(mask=clip.mask & jnp.array([[True], [False], [True]]))
    mask = encoder.apply({"params": params}, missing).mask
    np.testing.assert_array_equal(mask, np.broadcast_to([[True], [False], [True]], mask.shape))


@pytest.mark.parametrize("name", WAVEFORMS)
def test_waveform_encoders_of_padded_clips(name):
    expected = reference(name)
    encoder, params = load(name)
    clip = audio(expected["in/samples"], expected["in/lengths"])
    found = jax.jit(encoder.apply)({"params": params}, clip)
    assert found.mask.sum(1).tolist() == [39, 39, 21]
    assert_close(found.embeddings, expected["out/audio"], np.asarray(found.mask))
    alone = jax.tree.map(lambda x: x[2:, :433], clip)
    found = jax.jit(encoder.apply)({"params": params}, alone)
    assert_close(found.embeddings, expected["out/audio"][2:, :21])


def test_masked_tokens_of_wav2vec2():
    expected = reference("wav2vec2_large")
    encoder, params = load("wav2vec2_large")
    clip = audio(expected["in/samples"], expected["in/lengths"])
    clip = clip.replace(visible=jnp.asarray(expected["in/visible"]))
    found = encoder.apply({"params": params}, clip)
    assert_close(found.embeddings, expected["out/masked"], np.asarray(found.mask))


@pytest.mark.parametrize("name", WAVEFORMS)
def test_waveform_encoders_in_bfloat16_and_their_parameters(name):
    expected = reference(name)
    encoder, params = load(name)
    clip = audio(expected["in/samples"], expected["in/lengths"])
    half = encoder.clone(trunk=encoder.trunk.clone(dtype="bfloat16")).apply({"params": params}, clip)
    scale = np.abs(expected["out/audio"]).max()
    assert_close(half.embeddings, expected["out/audio"], np.asarray(half.mask), 2e-2 * scale)
    fresh = unbox(encoder.init(jax.random.key(0), clip))["params"]
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), fresh)


@pytest.mark.parametrize(
    "name, value",
    [("add_adapter", True), ("feat_extract_norm", "batch"), ("conv_dim", [8, 16, 8]), ("conv_stride", "no"),
     ("conv_kernel", [10, 0, 2]), ("layer_norm_eps", 1e-6), ("hidden_act", "mish")],
)  # fmt: skip
def test_options_that_mmjax_does_not_have_are_refused(name, value):
    config = json.loads((REFERENCES / "hubert" / "config.json").read_text())
    with pytest.raises(InputError, match=name):
        wav2vec2.encoder(config | {name: value})


@pytest.mark.parametrize("name", ["wav2vec2_base", "bert"])
def test_names_of_older_files(name, tmp_path):
    arrays = load_file(REFERENCES / name / "model.safetensors")
    pairs = [(".parametrizations.weight.original0", ".weight_g"), ("LayerNorm.bias", "LayerNorm.beta")]
    pairs += [(".parametrizations.weight.original1", ".weight_v"), ("LayerNorm.weight", "LayerNorm.gamma")]
    old = {functools.reduce(lambda n, pair: n.replace(*pair), pairs, key): x for key, x in arrays.items()}
    assert old.keys() != arrays.keys()
    save_file(old, tmp_path / "model.safetensors")
    shutil.copy(REFERENCES / name / "config.json", tmp_path)
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path), load_pretrained(REFERENCES / name))


def test_whispers_encoder_alone_starts_a_model_of_shorter_clips():
    """As init_from={"encoders.audio": folder} does, with layers that are not scanned, and augmentation."""
    model, expected = load("whisper")
    encoder = model.encoders["audio"].clone(
        mel=LogMel.whisper(16, clip_seconds=0.1), augment=SpecAugment(num_time_masks=1)
    )
    model = MultimodalModel(
        encoders={"audio": encoder},
        fusion=fusion.Late(("audio",)),
        heads={"audio": heads.PooledEmbedding("audio", dim=4)},
    )
    streams = {"audio": whisper_streams(reference("whisper"))["audio"]}
    fresh = jax.eval_shape(lambda: model.init(jax.random.key(0), streams, method=encode_and_predict))
    parts = initial_parts(
        {"encoders.audio": str(REFERENCES / "whisper")}, model, {"model": unbox(fresh)["params"]}
    )
    for path, array in flatten(expected["encoders_audio"]).items():
        part = parts[f"model/encoders_audio/{path}"]
        np.testing.assert_array_equal(part[(slice(None),) * len(part.shape)], array)
    encoded = encoder.apply({"params": expected["encoders_audio"]}, streams["audio"])
    assert encoded.embeddings.shape[1] == 5, "half of the reference's"


def test_whispers_logits_do_not_depend_on_later_tokens():
    model, params = load("whisper")
    streams = whisper_streams(reference("whisper"), slice(0, 1))
    before = predict(model, params, streams)[1]["text"]
    text = streams["text"]
    later = streams | {"text": text.replace(tokens=text.tokens.at[:, 5:].set(3))}
    after = predict(model, params, later)[1]["text"]
    np.testing.assert_array_equal(after[:, :5], before[:, :5])
    assert np.abs(after[:, 5:] - before[:, 5:]).max() > 0.1
    silent = streams | {"audio": streams["audio"].replace(mask=jnp.zeros_like(streams["audio"].mask))}
    found = predict(model, params, silent)[1]["text"]
    assert np.isfinite(found).all() and np.abs(found - before).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_weights_written_back_are_the_files(name):
    checkpoint = open_checkpoint(REFERENCES / name)
    weights = describe(checkpoint).weights
    _, params = load_pretrained(REFERENCES / name)
    written = write(weights, flatten(params))
    assert len(written) > 20
    for array_name, array in written.items():
        np.testing.assert_array_equal(array, checkpoint.arrays[array_name], err_msg=array_name)


@pytest.mark.parametrize("name", NAMES)
def test_folders_written_describe_the_same_model(name, tmp_path):
    module, params = load_pretrained(REFERENCES / name)
    config = save_pretrained(tmp_path / "out", module, params)
    expected = json.loads((REFERENCES / name / "config.json").read_text())
    kind = {"hubert": "wav2vec2"}.get(name, expected["model_type"])  # the same architecture
    assert config == {key: expected[key] for key in config} | {
        "architectures": config["architectures"], "model_type": kind
    }  # fmt: skip
    again, same = load_pretrained(tmp_path / "out")
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, same, params)
