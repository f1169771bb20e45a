"""Adversarial training: generator and discriminator each learn by their own loss alone."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalog import row

from mmjax import encoders, fusion, heads, objectives
from mmjax.batch import Audio, Encoded
from mmjax.learner import Learner
from mmjax.model import MultimodalModel
from mmjax.objectives.adversarial import adversarial_losses
from mmjax.sharding import unbox
from mmjax.testing import TOLERANCE
from mmjax.training import train_step
from mmjax.training.state import init_state

pytestmark = pytest.mark.once

MEL = encoders.LogMel(sample_rate_hz=8000, num_mels=8)
B, SAMPLES = 6, 640  # 8 frames
MODULE, STACK = TOLERANCE["fp32_module"], TOLERANCE["fp32_stack"]


def encoder() -> encoders.AdversarialSpectrogram:
    return encoders.AdversarialSpectrogram(
        mel=MEL,
        generator=encoders.SpectrogramGenerator(channels=(16, 8)),
        discriminator=encoders.ConvSpectrogram(channels=(8, 16), activation="leaky_relu"),
        width=16,
        noise_dim=4,
    )


def learner(**fields) -> Learner:
    model = MultimodalModel(
        encoders={"audio": encoder()},
        fusion=fusion.Late(("audio",)),
        heads={"real": heads.RealOrGenerated("audio")},
    )
    return Learner(model=model, objectives={"gan": objectives.Adversarial("real", "audio", **fields)})


def tones(seed: int = 0) -> Audio:
    """A tone of 1 kHz in noise. The last example is missing, the second-last is padded."""
    rng = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * 1000 * np.arange(SAMPLES)[None] / 8000 + rng.uniform(0, 6, (B, 1)))
    mask = np.arange(SAMPLES)[None] < np.array([SAMPLES] * (B - 2) + [400, 0])[:, None]
    samples = np.float32(0.5 * tone + 0.05 * rng.normal(size=(B, SAMPLES)))
    return Audio(jnp.asarray(samples), jnp.asarray(mask))


def split_players(params) -> tuple[dict, dict]:
    """Returns the parameters of (the discriminator and its head, the generator)."""
    model = params["model"]
    audio = model["encoders_audio"]
    return {"discriminator": audio["discriminator"], "head": model["heads_real"]}, audio["generator"]


def max_abs(tree) -> float:
    return max(float(np.abs(x).max()) for x in jax.tree.leaves(tree))


@functools.cache
def gradients():
    """Returns params and the gradients of the discriminator's loss, the generator's loss and their sum."""
    module, batch = learner(), {"audio": tones()}
    params = unbox(module.init({"params": jax.random.key(0), "views": jax.random.key(1)}, batch))["params"]

    def loss(params, name):
        rngs = {"views": jax.random.key(2), "dropout": jax.random.key(3)}
        total, metrics = module.apply({"params": params}, batch, train=True, rngs=rngs)
        return total if name == "sum" else metrics[f"gan/{name}"]

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    return params, *(gradient(params, name) for name in ("discriminator", "generator", "sum"))


def test_each_loss_has_gradients_for_its_own_player_only():
    _, of_discriminator, of_generator, _ = gradients()
    own, others = split_players(of_discriminator)
    assert max_abs(others) == 0 and all(max_abs(x) > 1e-4 for x in jax.tree.leaves(own))
    others, own = split_players(of_generator)
    assert max_abs(others) == 0 and all(max_abs(x) > 1e-6 for x in jax.tree.leaves(own))


def test_the_gradient_of_the_sum_is_the_sum_of_both_gradients():
    _, of_discriminator, of_generator, of_sum = gradients()
    expected = jax.tree.map(jnp.add, of_discriminator, of_generator)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=STACK, atol=MODULE), of_sum, expected)


def test_the_generators_gradient_is_that_of_fooling_a_constant_discriminator():
    """Computed without stop_gradient or heads, as a function of the generator's parameters alone."""
    params, _, of_generator, _ = gradients()
    module, audio = encoder(), tones()
    players, generator = split_players(params)
    linear = players["head"]["linear"]
    mel, frames = MEL(audio.samples, audio.mask)

    def loss(generator, noise):
        generated = module.generator.apply({"params": generator}, noise, mel.shape[1], mel.shape[2])
        generated = jnp.where(frames[..., None], generated, 0)
        discriminator = {"params": players["discriminator"]}
        x, mask = module.discriminator.apply(discriminator, generated, frames, module.width)
        pooled = (x * mask[..., None]).sum(1) / jnp.maximum(mask.sum(1), 1)[:, None]
        logit = (pooled @ linear["kernel"] + linear["bias"][None])[:, 0]
        return jax.nn.softplus(-logit)[:-1].mean()  # the last example is missing

    recorded = {}

    def record_noise(next_function, args, kwargs, context):
        if isinstance(context.module, encoders.SpectrogramGenerator) and context.method_name == "__call__":
            recorded["noise"] = args[0]
        return next_function(*args, **kwargs)

    with nn.intercept_methods(record_noise):
        rngs = {"views": jax.random.key(2), "dropout": jax.random.key(3)}
        learner().apply({"params": params}, {"audio": audio}, train=True, rngs=rngs)
    expected = jax.jit(jax.grad(loss))(generator, recorded["noise"])
    found = split_players(of_generator)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=10 * STACK, atol=MODULE), found, expected)


def test_losses():
    logits, valid = row.normal(5, 3), np.array([True, True, False, True, False])
    discriminator = generator = 0.0
    for i in np.flatnonzero(valid):
        real, generated, deceiving = (1 / (1 + np.exp(-np.float64(x))) for x in logits[i])
        discriminator += (-np.log(real) - np.log(1 - generated)) / 3
        generator += -np.log(deceiving) / 3
    found = adversarial_losses(jnp.asarray(logits), jnp.asarray(valid))
    np.testing.assert_allclose(found, (discriminator, generator), rtol=STACK)
    np.testing.assert_array_equal(adversarial_losses(jnp.asarray(logits), jnp.zeros(5, bool)), (0, 0))


def test_the_generator_moves_towards_the_data():
    """200 steps on a tone of 1 kHz halve the distance of the mean spectrograms."""
    module, optimizer = learner(), optax.adam(2e-3, b1=0.5)
    batch = {"audio": tones()}
    state = unbox(init_state(module, optimizer, batch, 0))
    step = jax.jit(functools.partial(train_step, learner=module, optimizer=optimizer))
    noise = jax.random.normal(jax.random.key(5), (64, 4))

    @jax.jit
    def distance(params):
        generated = encoder().generator.apply({"params": split_players(params)[1]}, noise, 8, 8)
        mel, _ = MEL(tones().samples, jnp.ones((B, SAMPLES), bool))
        return jnp.sqrt(jnp.square(generated.mean(0) - mel.mean(0)).mean())

    before = float(distance(state.params))
    for seed in range(200):
        state, metrics = step(state, {"audio": tones(seed)})
    after = float(distance(state.params))
    assert np.isfinite(float(metrics["loss"]))
    assert after < before / 2, (before, after)


def test_evaluation_is_deterministic_and_encodes_the_input_alone():
    module, audio = encoder(), tones()
    params = unbox(module.init(jax.random.key(0), audio))
    first, second = (module.apply(params, audio) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    np.testing.assert_allclose(first.for_generator, first.for_discriminator, rtol=MODULE, atol=MODULE)
    plain = encoders.SpectrogramCNN(MEL, module.discriminator.clone(), width=16)
    stem = {"params": {"stem": params["params"]["discriminator"]}}
    np.testing.assert_allclose(plain.apply(stem, audio).embeddings, first.embeddings, rtol=STACK, atol=STACK)


def test_a_stream_without_a_generator_is_refused():
    encoded = Encoded(jnp.zeros((2, 3, 4)), jnp.ones((2, 3), bool))
    with pytest.raises(ValueError, match="reads stream 'audio', whose encoder generates nothing"):
        heads.RealOrGenerated("audio").init(jax.random.key(0), encoded)
