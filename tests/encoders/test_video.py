"""Video encoders: tubelets against a loop, independence of frames, refusals."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from catalog import row
from catalog.row import random_parameters, trunk_inputs

from mmjax import encoders
from mmjax.batch import Image, Video
from mmjax.errors import InputError
from mmjax.spec import check_fields
from mmjax.testing import TOLERANCE

STACK = TOLERANCE["fp32_stack"]


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(row.normal(*shape))


def clip(num_frames: int = 4) -> Video:
    return Video(normal(2, 4, 4, 6, 3)[:, :num_frames], jnp.ones((2, num_frames), bool))


def space() -> encoders.ViT:
    return encoders.ViT(encoders.LinearPatches((2, 3)), row.trunk())


def test_tubelets_are_ordered_by_time_and_in_reading_order():
    video, stem = clip(), encoders.Tubelets(2, (2, 3))
    mask = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    params = random_parameters(stem, video.frames, mask, 5)
    x, found = stem.apply({"params": params}, video.frames, mask, 5)
    np.testing.assert_array_equal(found, [[True, True], [True, False]])
    frames = np.where(np.asarray(mask)[:, :, None, None, None], video.frames, 0)
    for t in range(2):
        for s, (top, left) in enumerate(((0, 0), (0, 3), (2, 0), (2, 3))):
            box = frames[0, 2 * t : 2 * t + 2, top : top + 2, left : left + 3].reshape(-1)
            expected = box @ params["linear"]["kernel"] + params["linear"]["bias"]
            np.testing.assert_allclose(x[0, t, s], expected, rtol=STACK, atol=STACK)


def test_tubelet_positions_are_the_sum_of_time_and_space():
    video = clip()
    encoder = encoders.TubeletTransformer(encoders.Tubelets(2, (2, 3)), row.trunk())
    params = random_parameters(encoder, video)
    masked = video.replace(mask=video.mask.at[:, 2:].set(False))
    ((tokens, mask),) = trunk_inputs(encoder, params, masked)
    stem = encoders.Tubelets(2, (2, 3))
    x, _ = stem.apply({"params": params["stem"]}, video.frames, video.mask, row.D)
    for t, s in ((0, 0), (0, 3)):
        expected = x[0, t, s] + params["places"]["table"][s] + params["moments"]["table"][t]
        np.testing.assert_allclose(tokens[0, 4 * t + s], expected, rtol=STACK, atol=STACK)
    np.testing.assert_array_equal(mask[0], [True] * 4 + [False] * 4)


def test_the_image_encoder_reads_every_frame_alone():
    """The inputs of the trunk `time` are the pooled encodings of single frames."""
    video = clip()
    encoder = encoders.FactorisedVideo(space(), row.trunk())
    params = random_parameters(encoder, video)
    inputs = [x for x, _ in trunk_inputs(encoder, params, video)]
    assert [x.shape for x in inputs] == [(8, 4, row.D), (2, 4, row.D)]
    for frame in range(4):
        image = Image(video.frames[:, frame], video.mask[:, frame])
        alone = space().apply({"params": params["space"]}, image).embeddings.mean(1)
        expected = alone @ params["linear"]["kernel"] + params["linear"]["bias"][None]
        expected += params["positions"]["table"][frame][None]
        np.testing.assert_allclose(inputs[1][:, frame], expected, rtol=STACK, atol=STACK)


@pytest.mark.parametrize("kind", ["factorised", "tubelets"])
def test_masked_frames_do_not_change_the_encoding(kind):
    """Compares a clip with masked frames at its end and a clip without them."""
    video_encoders = {
        "factorised": encoders.FactorisedVideo(space(), row.trunk()),
        "tubelets": encoders.TubeletTransformer(encoders.Tubelets(2, (4, 6)), row.trunk()),
    }
    encoder, long = video_encoders[kind], clip()
    long = long.replace(mask=long.mask.at[:, 2:].set(False))
    params = random_parameters(encoder, long)
    short_params = jax.tree.map(lambda x: x, params)
    table = {"factorised": "positions", "tubelets": "moments"}[kind]
    num = {"factorised": 2, "tubelets": 1}[kind]
    short_params[table] = {"table": params[table]["table"][:num]}
    run = jax.jit(lambda params, video: encoder.apply({"params": params}, video).embeddings)
    found, expected = run(params, long)[:, :num], run(short_params, clip(2))
    np.testing.assert_allclose(found, expected, rtol=STACK, atol=STACK)


def test_resnet_can_read_the_frames():
    resnet = encoders.ResNet(stages=(1, 1), width=4, stem="small", num_groups=2)
    encoder = encoders.FactorisedVideo(resnet, row.trunk())
    shape = jax.eval_shape(lambda: encoder.init_with_output(jax.random.key(0), clip())[0])
    assert shape.embeddings.shape == (2, 4, row.D)


def test_videos_that_do_not_fit_are_refused(monkeypatch):
    encoder = encoders.TubeletTransformer(encoders.Tubelets(3, (2, 3)), row.trunk())
    with pytest.raises(ValueError, match=r"\(4, 4, 6\) does not divide into tubelets of \(3, 2, 3\)"):
        encoder.init(jax.random.key(0), clip())
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in a run
    encoder = encoders.FactorisedVideo(space(), row.trunk(), pooling="last")
    with pytest.raises(InputError, match="pooling' expects 'mean' or 'first', found str 'last'"):
        check_fields(encoder)
