"""Losses of masked patches against plain loops in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog.of_objectives import (
    MEL,
    code_outputs,
    patch_outputs,
    quantised_outputs,
    spectrogram_outputs,
    values,
)

from mmjax import objectives, views
from mmjax.objectives.masked_patches import reconstruction_loss
from mmjax.objectives.vector_quantised import code_usage, codebook_loss
from mmjax.testing import TOLERANCE

RTOL = TOLERANCE["fp32_module"]
IDENTITY = views.Identity()


def apply(module, outputs):
    return jax.jit(values(module.apply))({}, jax.tree.map(jnp.asarray, outputs))


def patch_of(image: np.ndarray, number: int) -> np.ndarray:
    """The values of a patch of 4 x 4 pixels; patches and their pixels in reading order."""
    row, column = divmod(number, image.shape[1] // 4)
    return np.array([image[4 * row + y, 4 * column + x] for y in range(4) for x in range(4)]).reshape(-1)


def explained(errors: list[float], values: list[float]) -> float:
    return 1 - np.mean(np.square(errors)) / np.var(values)


@pytest.mark.parametrize("normalise", [False, True])
def test_masked_patches(normalise):
    (outputs,) = patch_outputs()
    pixels = np.float64(outputs.batch["image"].pixels)
    errors, values = [], []
    for row, number in zip(*np.nonzero(outputs.targets["masked_patches"]), strict=True):
        patch = patch_of(pixels[row], number)
        if normalise:
            patch = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
        errors += list(outputs.predictions["patches"][row, number] - patch)
        values += list(patch)
    module = objectives.MaskedPatches("patches", "image", (4, 4), view=IDENTITY, normalise=normalise)
    loss, metrics = apply(module, outputs)
    np.testing.assert_allclose(loss, np.mean(np.square(errors)), rtol=RTOL)
    np.testing.assert_allclose(metrics["explained"], explained(errors, values), rtol=10 * RTOL)


@pytest.mark.parametrize("normalise", [False, True])
def test_masked_spectrogram_ignores_padding_frames(normalise):
    """Two by two patches of five frames and two mels; rows of 10, 8, 3 and 0 frames."""
    (outputs,) = spectrogram_outputs()
    audio = outputs.batch["audio"]
    mel = np.float64(MEL(jnp.asarray(audio.samples), jnp.asarray(audio.mask))[0])
    num_frames = (10, 8, 3, 0)
    errors, values = [], []
    for row, number in zip(*np.nonzero(outputs.targets["masked_patches"]), strict=True):
        first_frame, first_mel = 5 * (number // 2), 2 * (number % 2)
        values_inside = [
            (first_frame + t, first_mel + m, n)
            for n, (t, m) in enumerate((t, m) for t in range(5) for m in range(2))
            if first_frame + t < num_frames[row]
        ]
        patch = np.array([mel[row, frame, m] for frame, m, _ in values_inside])
        if normalise and len(patch):
            patch = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
        errors += [
            outputs.predictions["patches"][row, number, n] - value
            for (_, _, n), value in zip(values_inside, patch, strict=True)
        ]
        values += list(patch)
    assert len(values) == 3 * 10 + 6 + 2 * 6, "expected patches that are only partly padding"
    module = objectives.MaskedSpectrogram(
        "patches", "audio", MEL, 5, view=IDENTITY, mels=2, normalise=normalise
    )
    loss, metrics = apply(module, outputs)
    np.testing.assert_allclose(loss, np.mean(np.square(errors)), rtol=RTOL)
    np.testing.assert_allclose(metrics["explained"], explained(errors, values), rtol=10 * RTOL)


def test_masked_codes():
    (outputs,) = code_outputs()
    logits, codes = np.float64(outputs.predictions["guess"]), outputs.predictions["codes"].codes
    losses, hits = [], []
    for row, number in zip(*np.nonzero(outputs.targets["masked_patches"]), strict=True):
        scores, code = logits[row, number], codes[row, number]
        losses.append(np.log(np.exp(scores).sum()) - scores[code])
        hits.append(scores.argmax() == code)
    loss, metrics = apply(objectives.MaskedCodes("guess", "codes", view=IDENTITY), outputs)
    np.testing.assert_allclose((loss, metrics["accuracy"]), (np.mean(losses), np.mean(hits)), rtol=RTOL)


def test_vector_quantised():
    (outputs,) = quantised_outputs()
    quantised = outputs.predictions["codes"]
    pixels = np.float64(outputs.batch["image"].pixels)
    errors, distances, codes = [], [], []
    for row, number in zip(*np.nonzero(quantised.mask), strict=True):
        errors += list(quantised.patches[row, number] - patch_of(pixels[row], number))
        difference = np.float64(quantised.latents[row, number]) - quantised.code_vectors[row, number]
        distances.append((1 + 0.3) * np.sum(difference**2))
        codes.append(quantised.codes[row, number])
    loss, metrics = apply(
        objectives.VectorQuantised("codes", "image", (4, 4), commitment_weight=0.3), outputs
    )
    np.testing.assert_allclose(loss, np.mean(np.square(errors)) + np.mean(distances), rtol=RTOL)
    frequency = np.bincount(codes) / len(codes)
    frequency = frequency[frequency > 0]
    np.testing.assert_allclose(metrics["used"], len(set(codes)) / 6, rtol=RTOL)
    np.testing.assert_allclose(
        metrics["perplexity"], np.exp(-np.sum(frequency * np.log(frequency))), rtol=RTOL
    )


def test_codebook_loss_gives_each_side_the_gradient_of_its_own_term():
    """Eq. 3: the codebook term trains the codes only, the commitment term the encoder only."""
    latents, codes = jnp.array([[[1.0, 0.0]]]), jnp.array([[[0.0, 1.0]]])
    gradient = jax.grad(codebook_loss, argnums=(0, 1))(latents, codes, jnp.ones((1, 1), bool), 0.25)
    np.testing.assert_allclose(gradient[0], 2 * 0.25 * (latents - codes))
    np.testing.assert_allclose(gradient[1], 2 * (codes - latents))


def test_code_usage_of_uniform_codes_and_of_one_code():
    valid = jnp.ones((1, 8), bool)
    uniform = code_usage(jnp.arange(8)[None] % 4, valid, 16)
    np.testing.assert_allclose((uniform["used"], uniform["perplexity"]), (4 / 16, 4), rtol=RTOL)
    single = code_usage(jnp.zeros((1, 8), jnp.int32), valid, 16)
    np.testing.assert_allclose((single["used"], single["perplexity"]), (1 / 16, 1), rtol=RTOL)


def test_no_masked_patch_gives_zero_loss_and_gradient():
    """Not NaN, although predictions and patches are far apart."""
    none = jnp.zeros((2, 3, 4), bool)
    patches = jnp.full((2, 3, 4), 1e4)
    (loss, metrics), gradient = jax.value_and_grad(
        lambda predicted: values(reconstruction_loss)("x", predicted, patches, none), has_aux=True
    )(-patches)
    assert loss == 0 and metrics["explained"] == 0
    np.testing.assert_array_equal(gradient, 0)


def test_a_constant_patch_is_standardised_to_zero():
    def total(patches):
        return objectives.masked_patches.standardise(patches).sum()

    value, gradient = jax.value_and_grad(total)(jnp.full((1, 1, 4), 0.5))
    assert value == 0 and np.isfinite(gradient).all()


def test_shapes_that_do_not_fit_are_refused():
    (outputs,) = patch_outputs()
    with pytest.raises(
        ValueError, match="view's grid has 4 patches, and the input has 16: expected a `grid`"
    ):
        apply(objectives.MaskedPatches("patches", "image", (2, 2), view=IDENTITY), outputs)
    with pytest.raises(ValueError, match=r"head 'patches' .* expected num_patches=4 and patch_dim=48"):
        narrow = {"patches": outputs.predictions["patches"][..., :12]}
        apply(
            objectives.MaskedPatches("patches", "image", (4, 4), view=IDENTITY),
            outputs.replace(predictions=narrow),
        )
    with pytest.raises(ValueError, match=r"view with the target 'masked_patches', and its view gives \[\]"):
        apply(
            objectives.MaskedPatches("patches", "image", (4, 4), view=IDENTITY), outputs.replace(targets={})
        )
    (outputs,) = code_outputs()
    guess = {"guess": outputs.predictions["guess"][..., :5]}
    with pytest.raises(ValueError, match=r"expected num_patches=4 and patch_dim=6"):
        apply(
            objectives.MaskedCodes("guess", "codes", view=IDENTITY),
            outputs.replace(predictions=outputs.predictions | guess),
        )
