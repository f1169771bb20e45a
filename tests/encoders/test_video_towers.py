"""Video towers: tubelets against a loop, who feels whom in space and time, refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from catalog import row

from mmjax import encoders
from mmjax.batch import Image, Video
from mmjax.testing import TOLERANCE

STACK = TOLERANCE["fp32_stack"]


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(row.normal(*shape))


def random_parameters(module, *inputs):
    abstract = nn.meta.unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32), abstract)


def clip(num_frames: int = 4) -> Video:
    return Video(normal(2, 4, 4, 6, 3)[:, :num_frames], jnp.ones((2, num_frames), bool))


def space() -> encoders.ViT:
    return encoders.ViT(encoders.LinearPatches((2, 3)), row.trunk())


def test_tubelets_are_boxes_by_time_and_reading_order():
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


def test_positions_of_tubelets_are_of_moment_and_place():
    video = clip()
    tower = encoders.TubeletTransformer(encoders.Tubelets(2, (2, 3)), row.trunk())
    params = random_parameters(tower, video)
    seen = {}

    def keep(next_, args, kwargs, context):
        if type(context.module).__name__ == "Transformer" and context.method_name == "encode":
            seen["x"], seen["mask"] = args[0], args[1]
        return next_(*args, **kwargs)

    with nn.intercept_methods(keep):
        tower.apply({"params": params}, video.replace(mask=video.mask.at[:, 2:].set(False)))
    stem = encoders.Tubelets(2, (2, 3))
    x, _ = stem.apply({"params": params["stem"]}, video.frames, video.mask, row.D)
    for t, s in ((0, 0), (0, 3)):
        expected = x[0, t, s] + params["places"]["table"][s] + params["moments"]["table"][t]
        np.testing.assert_allclose(seen["x"][0, 4 * t + s], expected, rtol=STACK, atol=STACK)
    np.testing.assert_array_equal(seen["mask"][0], [True] * 4 + [False] * 4)


def test_every_frame_goes_through_the_image_encoder_by_itself():
    """What reaches the trunk of time is what the image encoder alone makes of each frame, pooled."""
    video = clip()
    tower = encoders.FactorisedVideo(space(), row.trunk())
    params = random_parameters(tower, video)
    seen = []

    def keep(next_, args, kwargs, context):
        if type(context.module).__name__ == "Transformer" and context.method_name == "encode":
            seen.append(args[0])
        return next_(*args, **kwargs)

    with nn.intercept_methods(keep):
        tower.apply({"params": params}, video)
    assert [x.shape for x in seen] == [(8, 4, row.D), (2, 4, row.D)]
    for frame in range(4):
        image = Image(video.frames[:, frame], video.mask[:, frame])
        alone = space().apply({"params": params["space"]}, image).embeddings.mean(1)
        expected = alone @ params["linear"]["kernel"] + params["linear"]["bias"][None]
        expected += params["positions"]["table"][frame][None]
        np.testing.assert_allclose(seen[1][:, frame], expected, rtol=STACK, atol=STACK)


@pytest.mark.parametrize("kind", ["factorised", "tubelets"])
def test_frames_that_are_not_there_change_nothing(kind):
    """Masked frames behind a clip are as no frames behind it."""
    towers = {
        "factorised": encoders.FactorisedVideo(space(), row.trunk()),
        "tubelets": encoders.TubeletTransformer(encoders.Tubelets(2, (4, 6)), row.trunk()),
    }
    tower, long = towers[kind], clip()
    long = long.replace(mask=long.mask.at[:, 2:].set(False))
    params = random_parameters(tower, long)
    short_params = jax.tree.map(lambda x: x, params)
    table = {"factorised": "positions", "tubelets": "moments"}[kind]
    num = {"factorised": 2, "tubelets": 1}[kind]
    short_params[table] = {"table": params[table]["table"][:num]}
    run = jax.jit(lambda params, video: tower.apply({"params": params}, video).embeddings)
    found, expected = run(params, long)[:, :num], run(short_params, clip(2))
    np.testing.assert_allclose(found, expected, rtol=STACK, atol=STACK)


def test_any_image_encoder_reads_the_frames():
    resnet = encoders.ResNet(stages=(1, 1), width=4, stem="small", num_groups=2)
    tower = encoders.FactorisedVideo(resnet, row.trunk())
    shape = jax.eval_shape(lambda: tower.init_with_output(jax.random.key(0), clip())[0])
    assert shape.embeddings.shape == (2, 4, row.D)


def test_videos_that_do_not_fit_are_refused(monkeypatch):
    tower = encoders.TubeletTransformer(encoders.Tubelets(3, (2, 3)), row.trunk())
    with pytest.raises(ValueError, match=r"\(4, 4, 6\) does not divide into tubelets of \(3, 2, 3\)"):
        tower.init(jax.random.key(0), clip())
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside tests
    tower = encoders.FactorisedVideo(space(), row.trunk(), pooling="last")
    with pytest.raises(ValueError, match="pooling expects 'mean' or 'first', found 'last'"):
        tower.init(jax.random.key(0), clip())
