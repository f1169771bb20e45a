"""CCA and PCA against their definitions, and as initial weights of embedding heads."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import heads
from mmjax.batch import Encoded
from mmjax.errors import InputError
from mmjax.evals import cca

N = 4000


@pytest.fixture(scope="module")
def correlated() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixed features, 5 and 4 wide, whose three pairs of latent variables correlate by exactly .9, .6, .3."""
    rng = np.random.default_rng(0)
    # Orthonormal columns, so that the sample correlations are exact.
    latent = np.linalg.qr(rng.normal(size=(N, 9)))[0]
    latent = np.linalg.qr(latent - latent.mean(0))[0] * np.sqrt(N - 1)
    expected = np.array([0.9, 0.6, 0.3, 0.0])
    first = latent[:, :5]
    second = expected * latent[:, :4] + np.sqrt(1 - expected**2) * latent[:, 5:]
    return first @ rng.normal(size=(5, 5)) + 3, second @ rng.normal(size=(4, 4)) - 1, expected


def test_cca_finds_the_correlations_of_a_constructed_problem(correlated):
    first, second, expected = correlated
    first_map, second_map, correlations = cca.cca(first, second, dim=3, regularise=0.0)
    np.testing.assert_allclose(correlations, expected[:3], atol=1e-6)
    x, y = first_map(first), second_map(second)
    np.testing.assert_allclose(np.cov(x.T), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.cov(y.T), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(x.T @ y / (N - 1), np.diag(expected[:3]), atol=1e-6)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-9)


def test_cca_solves_hotellings_eigenproblem(correlated):
    """The squared correlations are the eigenvalues of Cxx^-1 Cxy Cyy^-1 Cyx."""
    first, second, _ = correlated
    rng = np.random.default_rng(1)
    first, second = first[:50] + rng.normal(size=(50, 5)), second[:50] + rng.normal(size=(50, 4))
    joint = np.cov(np.concatenate([first, second], axis=1).T)
    xx, xy, yy = joint[:5, :5], joint[:5, 5:], joint[5:, 5:]
    eigenvalues = np.linalg.eigvals(np.linalg.solve(xx, xy) @ np.linalg.solve(yy, xy.T))
    _, _, correlations = cca.cca(first, second, dim=4, regularise=0.0)
    np.testing.assert_allclose(correlations**2, np.sort(eigenvalues.real)[::-1][:4], rtol=1e-8)


def test_cca_is_invariant_to_linear_maps_of_either_side(correlated):
    first, second, _ = correlated
    rng = np.random.default_rng(2)
    mapped = first @ rng.normal(size=(5, 5)) * 1e3 + 7, second @ rng.normal(size=(4, 4)) * 1e-3
    *maps, correlations = cca.cca(first, second, 3, 0.0)
    *mapped_maps, mapped_correlations = cca.cca(*mapped, 3, 0.0)
    np.testing.assert_allclose(correlations, mapped_correlations, atol=1e-8)
    for side, features in enumerate((first, second)):
        x, y = maps[side](features), mapped_maps[side](mapped[side])
        np.testing.assert_allclose(x, y * np.sign((x * y).sum(0)), atol=1e-6)  # up to a sign


def test_the_ridge_prevents_spurious_correlations():
    """With fewer examples than features, CCA without it finds a correlation of 1 in noise."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(20, 30)), rng.normal(size=(20, 30))
    assert cca.cca(first, second, 1, regularise=1e-9)[2][0] > 0.999
    ridge = cca.cca(first, second, 1, regularise=10.0)[2][0]
    assert ridge < 0.5


def test_pca_against_the_covariance():
    x = np.random.default_rng(0).normal(size=(60, 5)) @ np.random.default_rng(1).normal(size=(5, 5)) + 2
    linear_map, variances = cca.pca(x, dim=3)
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(np.cov(x.T))[::-1][:3], rtol=1e-9)
    np.testing.assert_allclose(np.cov(linear_map(x).T), np.diag(variances), atol=1e-8)
    np.testing.assert_allclose(linear_map.kernel.T @ linear_map.kernel, np.eye(3), atol=1e-9)


def test_maps_initialise_embedding_heads(correlated):
    first, second, _ = correlated
    first_map, second_map, _ = cca.cca(first, second, dim=3)
    modules = {
        "image": heads.PooledEmbedding("image", 3, use_bias=True),
        "text": heads.PooledEmbedding("text", 3),
    }
    sides = {"image": (first, first_map), "text": (second, second_map)}
    model = {"fusion": {}}
    for name, (features, _) in sides.items():
        encoded = Encoded(jnp.asarray(features[:2, None], jnp.float32), jnp.ones((2, 1), bool))
        model[f"heads_{name}"] = nn.meta.unbox(modules[name].init(jax.random.key(0), encoded)["params"])
    params = {"model": model, "objectives": {}}
    initialised = cca.initialise_heads(params, {"image": first_map, "text": second_map})
    for name, (features, linear_map) in sides.items():
        encoded = Encoded(jnp.asarray(features[:8, None], jnp.float32), jnp.ones((8, 1), bool))
        embeddings = modules[name].apply({"params": initialised["model"][f"heads_{name}"]}, encoded)
        # A head without a bias does not subtract the mean.
        expected = linear_map(features[:8]) if name == "image" else features[:8] @ linear_map.kernel
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
        kernel = initialised["model"][f"heads_{name}"]["linear"]["kernel"]
        assert kernel.dtype == jnp.float32
        assert not np.allclose(kernel, params["model"][f"heads_{name}"]["linear"]["kernel"])


def test_invalid_features_dimensions_and_heads_are_refused(correlated):
    first, second, _ = correlated
    first_map, _, _ = cca.cca(first, second, dim=2)
    head = {"linear": {"kernel": np.zeros((5, 3), np.float32)}}
    params = {"model": {"heads_image": head, "heads_text": head}}
    with pytest.raises(InputError, match=r"found 'picture'; heads with parameters: \['image', 'text'\]"):
        cca.initialise_heads(params, {"picture": first_map})
    with pytest.raises(InputError, match=r"'image' expects a map of shape \(5, 3\), found \(5, 2\)"):
        cca.initialise_heads(params, {"image": first_map})
    with pytest.raises(InputError, match="expected pairs, found 4000 and 3999 rows"):
        cca.cca(first, second[1:], dim=2)
    with pytest.raises(InputError, match="dim expects 1 to 4, the number of features, found 5"):
        cca.cca(first, second, dim=5)
    with pytest.raises(InputError, match=r"at least 2 examples, 'N D', found the shape \(1, 5\)"):
        cca.pca(first[:1], dim=1)
